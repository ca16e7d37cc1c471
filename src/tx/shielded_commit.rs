//! Futures that are finished in the background when they are dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

/// Polls a future in place. If it is dropped before the future has completed, a background task finishes
/// it.
///
/// # Why not spawn it from the start?
///
/// Almost no commit is cancelled, but every commit would pay for a task and two wake-ups across threads.
pub(crate) struct Shield<F: Shieldable, P: Finish<F>> {
    rest: Option<(Pin<Box<F>>, P)>,
    runtime: Handle,
}

/// A future that can be moved to another task.
pub(crate) trait Shieldable: Future<Output: Send> + Send + 'static {}
impl<F: Future<Output: Send> + Send + 'static> Shieldable for F {}

/// Finishes a future that was dropped. If the future completes in place instead, it is returned with the
/// output.
pub(crate) trait Finish<F: Shieldable>: Send + Unpin + 'static {
    fn finish(self, future: Pin<Box<F>>) -> BoxFuture<'static, ()>;
}

/// Awaits the future and ignores its output.
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

    /// Drops the future without finishing it.
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
    async fn finishes_a_dropped_future() {
        let (go, started) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let future = async move {
            let _ = started.await;
            let _ = done.send("finished");
        };
        let mut shield = Shield::new(Handle::current(), future, ());
        assert!(futures_util::poll!(&mut shield).is_pending());
        drop(shield);
        go.send(()).expect("the future is still awaited");
        assert_eq!(finished.await, Ok("finished"));
    }

    #[tokio::test]
    async fn returns_the_output_of_a_completed_future() {
        let shield = Shield::new(Handle::current(), async { 7 }, ());
        assert_eq!(shield.await, (7, ()));
    }

    #[tokio::test]
    async fn drops_a_future_that_is_given_up() {
        let (done, finished) = oneshot::channel();
        let shield = Shield::new(Handle::current(), async move { done.send(()) }, ());
        assert_eq!(shield.give_up(), Some(()));
        assert!(finished.await.is_err());
    }
}
