//! Futures that are finished even when nobody waits for them any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Polls a future in place; if it is dropped before the future is done, a task of the runtime finishes it.
///
/// # Why not spawn it in the first place?
///
/// A commit that nobody cancels, which is nearly all of them, would pay for a task and two wake-ups across threads.
pub(crate) struct Shield<F: Future<Output: Send> + Send + 'static> {
    future: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Shield<F> {
    pub(crate) fn new(runtime: Handle, future: F) -> Self {
        Self { future: Some(Box::pin(future)), runtime }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Shield<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let poll = future.as_mut().poll(context);
        if poll.is_ready() {
            self.future = None;
        }
        poll
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Shield<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.runtime.spawn(future);
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
        let mut shield = Shield::new(Handle::current(), async move {
            let _ = started.await;
            let _ = done.send("finished");
        });
        assert!(futures_util::poll!(&mut shield).is_pending());
        drop(shield);
        go.send(()).expect("somebody still waits");
        assert_eq!(finished.await, Ok("finished"));
    }

    #[tokio::test]
    async fn a_future_that_is_done_is_not_run_again() {
        let shield = Shield::new(Handle::current(), async { 7 });
        assert_eq!(shield.await, 7);
    }
}
