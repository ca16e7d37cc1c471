//! What a worker waits for between two looks.

use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::Worker;
use crate::events::JobEvent;
use crate::queue::{QueueBackend, log};

/// A worker that polls more seldom than this asks when the next job is due. For others that would be as many
/// questions as polls.
const MIN_FORESEEN: Duration = Duration::from_secs(1);

impl<DB: QueueBackend> Worker<DB> {
    /// How long to wait for the next look: until the next poll or, where that is further away than a moment
    /// and nothing is to be done, until the next job is due.
    pub(super) async fn time_to_wait(&self, is_idle: bool) -> Duration {
        if !is_idle || self.poll <= MIN_FORESEEN {
            return self.poll;
        }
        match self.queue.until_next_due().await {
            // The time is rounded on some databases. A look too early would have to be repeated.
            Ok(Some(next)) => self.poll.min(next + Duration::from_millis(2)),
            Ok(None) => self.poll,
            Err(error) => {
                self.watchers.tell(JobEvent::Trouble { error: &error });
                self.poll.min(MIN_FORESEEN)
            }
        }
    }

    /// Is done when the worker is to stop. A panic is no signal: without one the worker goes on.
    pub(super) async fn told_to_stop(&self, shutdown: impl Future + Send) {
        if AssertUnwindSafe(shutdown).catch_unwind().await.is_err() {
            log::panicked(
                &self.queue.name,
                "the shutdown signal",
                "the worker goes on, and cannot be told to stop",
            );
            pending().await
        }
    }

    pub(super) async fn something_to_do(&self, wait: Duration) {
        let woken = async {
            let Some(wake) = &self.wake else { return pending().await };
            // Both the call and the future that it returns are the caller's code.
            if AssertUnwindSafe(async { wake.woken().await }).catch_unwind().await.is_err() {
                log::panicked(&self.queue.name, "the wake", "the worker looks at its next poll");
                pending().await
            }
        };
        tokio::select! {
            () = woken => {}
            () = sleep(wait) => {}
        }
    }
}
