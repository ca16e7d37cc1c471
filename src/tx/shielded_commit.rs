//! Futures that are finished even when nobody waits for them any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

/// Polls a future in place; if it is dropped before the future is done, a task of the runtime finishes it.
///
/// # Why not spawn it in the first place?
///
/// A commit that nobody cancels, which is nearly all of them, would pay for a task and two wake-ups across
/// threads.
pub(crate) struct Shield<F: Shieldable, P: Finish<F>> {
    rest: Option<(Pin<Box<F>>, P)>,
    runtime: Handle,
}

/// A future that can be handed to another task.
pub(crate) trait Shieldable: Future<Output: Send> + Send + 'static {}
impl<F: Future<Output: Send> + Send + 'static> Shieldable for F {}

/// How a future is finished that nobody waits for any more. Whoever does wait gets it back with the output.
pub(crate) trait Finish<F: Shieldable>: Send + Unpin + 'static {
    fn finish(self, future: Pin<Box<F>>) -> BoxFuture<'static, ()>;
}

/// As it is.
impl<F: Shieldable> Finish<F> for () {
    fn finish(self, future: Pin<Box<F>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = future.await;
        })
    }
}

impl<F: Shieldable, P: Finish<F>> Shield<F, P> {
    pub(crate) fn new(runtime: Handle, future: F, finish: P) -> Self {
        Self { rest: Some((Box::pin(future), finish)), runtime }
    }

    /// Drops the future where it stands.
    pub(crate) fn give_up(mut self) -> Option<P> {
        self.rest.take().map(|(_, finish)| finish)
    }
}

impl<F: Shieldable, P: Finish<F>> Future for Shield<F, P> {
    type Output = (F::Output, P);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((mut future, finish)) = self.rest.take() else { return Poll::Pending };
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready((output, finish)),
            Poll::Pending => {
                self.rest = Some((future, finish));
                Poll::Pending
            }
        }
    }
}

impl<F: Shieldable, P: Finish<F>> Drop for Shield<F, P> {
    fn drop(&mut self) {
        if let Some((future, finish)) = self.rest.take() {
            self.runtime.spawn(finish.finish(future));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_dropped_future_is_finished() {
        let (go, started) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let future = async move {
            let _ = started.await;
            let _ = done.send("finished");
        };
        let mut shield = Shield::new(Handle::current(), future, ());
        assert!(futures_util::poll!(&mut shield).is_pending());
        drop(shield);
        go.send(()).expect("somebody still waits");
        assert_eq!(finished.await, Ok("finished"));
    }

    #[tokio::test]
    async fn a_future_that_is_done_is_not_run_again() {
        let shield = Shield::new(Handle::current(), async { 7 }, ());
        assert_eq!(shield.await, (7, ()));
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_not_finished() {
        let (done, finished) = oneshot::channel();
        let shield = Shield::new(Handle::current(), async move { done.send(()) }, ());
        assert_eq!(shield.give_up(), Some(()));
        assert!(finished.await.is_err());
    }
}
