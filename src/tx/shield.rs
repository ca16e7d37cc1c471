//! Futures that are finished even when nobody waits for them any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

/// Polls a future in place; if it is dropped before the future is done, a task of the runtime finishes it, and does with
/// its output what the caller would have done.
///
/// # Why not spawn it in the first place?
///
/// A commit that nobody cancels, which is nearly all of them, would pay for a task and two wake-ups across threads.
pub(crate) struct Shield<F: Shieldable, A: Afterwards<F::Output>> {
    rest: Option<(Pin<Box<F>>, A)>,
    runtime: Handle,
}

/// A future that can be handed to another task.
pub(crate) trait Shieldable: Future<Output: Send> + Send + 'static {}
impl<F: Future<Output: Send> + Send + 'static> Shieldable for F {}

/// What is to be done with the output of a future that nobody waits for any more.
pub(crate) trait Afterwards<T>: FnOnce(T) -> BoxFuture<'static, ()> + Send + Unpin + 'static {}
impl<T, A: FnOnce(T) -> BoxFuture<'static, ()> + Send + Unpin + 'static> Afterwards<T> for A {}

impl<F: Shieldable, A: Afterwards<F::Output>> Shield<F, A> {
    pub(crate) fn new(runtime: Handle, future: F, afterwards: A) -> Self {
        Self { rest: Some((Box::pin(future), afterwards)), runtime }
    }
}

impl<F: Shieldable, A: Afterwards<F::Output>> Future for Shield<F, A> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some((future, _)) = &mut self.rest else { return Poll::Pending };
        let poll = future.as_mut().poll(context);
        if poll.is_ready() {
            self.rest = None;
        }
        poll
    }
}

impl<F: Shieldable, A: Afterwards<F::Output>> Drop for Shield<F, A> {
    fn drop(&mut self) {
        if let Some((future, afterwards)) = self.rest.take() {
            self.runtime.spawn(async move { afterwards(future.await).await });
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
        let future = async move { started.await.map(|()| "finished") };
        let mut shield = Shield::new(Handle::current(), future, |output| {
            Box::pin(async move {
                let _ = done.send(output);
            })
        });
        assert!(futures_util::poll!(&mut shield).is_pending());
        drop(shield);
        go.send(()).expect("somebody still waits");
        assert_eq!(finished.await, Ok(Ok("finished")));
    }

    #[tokio::test]
    async fn a_future_that_is_done_is_not_run_again() {
        let shield = Shield::new(Handle::current(), async { 7 }, |_| unreachable!("somebody waited for it"));
        assert_eq!(shield.await, 7);
    }
}
