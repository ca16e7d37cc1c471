//! What a worker waits for between two claims.

use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::Worker;
use crate::backend::Backend;
use crate::events::JobEvent;
use crate::queue::log;

/// A worker that polls less often than this queries when the next job is due. For other workers, that query
/// would cost as much as a poll.
const MIN_PLANNED: Duration = Duration::from_secs(1);

/// Some databases round the due time. A poll that is too early would have to be repeated.
const ROUNDING: Duration = Duration::from_millis(2);

impl<DB: Backend> Worker<DB> {
    /// Returns how long to wait for the next claim: until the next poll or, for an idle worker that polls
    /// rarely, until the next job is due if that is earlier.
    pub(super) async fn time_to_wait(&self, is_idle: bool) -> Duration {
        if !is_idle || self.poll <= MIN_PLANNED {
            return self.poll;
        }
        match self.queue.until_next_due().await {
            Ok(Some(next)) => self.poll.min(next + ROUNDING),
            Ok(None) => self.poll,
            Err(error) => {
                self.reporter.report(JobEvent::Trouble { error: &error });
                self.poll.min(MIN_PLANNED)
            }
        }
    }

    /// Waits for the shutdown signal. A panic is not a signal: the worker continues.
    pub(super) async fn shutdown_signal(&self, shutdown: impl Future + Send) {
        if AssertUnwindSafe(shutdown).catch_unwind().await.is_err() {
            log::panicked(
                &self.queue.name,
                "the shutdown signal",
                "the worker continues, and can no longer be shut down by it",
            );
            pending().await
        }
    }

    /// Waits until the worker is woken or the time has passed.
    pub(super) async fn wait_for_jobs(&self, time: Duration) {
        let woken = async {
            let Some(wake) = &self.wake else { return pending().await };
            // Both the call and the future that it returns are the caller's code.
            if AssertUnwindSafe(async { wake.woken().await }).catch_unwind().await.is_err() {
                log::panicked(&self.queue.name, "the wake", "the worker waits for its next poll");
                pending().await
            }
        };
        tokio::select! {
            () = woken => {}
            () = sleep(time) => {}
        }
    }
}
