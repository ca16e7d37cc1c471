//! Log entries of queues, with the feature `tracing`.

/// Why a job is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// Its last attempt failed.
    Exhausted,
    /// It failed with [`Retry::Never`](super::Retry::Never).
    GivenUp,
    /// The lease of its last attempt expired.
    Lapsed,
}

impl Death {
    #[cfg(feature = "tracing")]
    const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::GivenUp => "given_up",
            Self::Lapsed => "lapsed",
        }
    }
}

#[cfg(feature = "tracing")]
pub(super) use with::{TroubleLog, died, interrupted, panicked};
#[cfg(not(feature = "tracing"))]
pub(super) use without::{TroubleLog, died, interrupted, panicked};

#[cfg(feature = "tracing")]
mod with {
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use tokio::time::Instant;
    use tracing::{error, warn};

    use super::Death;
    use crate::error::Error;
    use crate::schema::is_missing_table;

    /// The time between two log entries about the same trouble.
    const INTERVAL: Duration = Duration::from_secs(5 * 60);

    /// Logs that a job is dead.
    pub(in crate::queue) fn died(queue: &str, id: i64, death: Death, attempts: u32, error: &str) {
        let kind = death.as_str();
        error!(
            target: "atomically", queue, job = id, kind, attempts, error,
            "job {id} of the queue {queue:?} is dead after {attempts} attempts ({kind}): {error}"
        );
    }

    /// Logs that code of the caller panicked inside a worker, and what the worker does about it.
    pub(in crate::queue) fn panicked(queue: &str, what: &str, consequence: &str) {
        error!(
            target: "atomically", queue,
            "{what} of a worker of the queue {queue:?} panicked: {consequence}"
        );
    }

    /// Logs the error that ended a claim after a part of it.
    pub(in crate::queue) fn interrupted(queue: &str, jobs: usize, error: &Error) {
        warn!(
            target: "atomically", queue,
            "a claim of the queue {queue:?} returned {jobs} jobs, and was interrupted by an error: {error}"
        );
    }

    /// When a worker last logged trouble: missing tables, and all other errors.
    #[derive(Debug, Default)]
    pub(in crate::queue) struct TroubleLog(Mutex<[Option<Instant>; 2]>);

    impl TroubleLog {
        /// Logs an error that interrupted a worker, unless the previous entry is recent: the worker retries
        /// every second.
        pub(in crate::queue) fn report(&self, queue: &str, error: &Error) {
            let is_missing = error.failure().is_some_and(is_missing_table);
            let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let [missing, others] = &mut *reported;
            let last = if is_missing { missing } else { others };
            if last.is_some_and(|last| last.elapsed() < INTERVAL) {
                return;
            }
            *last = Some(Instant::now());
            if is_missing {
                error!(
                    target: "atomically", queue,
                    "a worker of the queue {queue:?} does not find its tables and keeps trying: {error}"
                );
            } else {
                warn!(
                    target: "atomically", queue,
                    "a worker of the queue {queue:?} was interrupted by an error and will retry: {error}"
                );
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    use super::Death;
    use crate::error::Error;

    pub(in crate::queue) fn died(_queue: &str, _id: i64, _death: Death, _attempts: u32, _error: &str) {}

    pub(in crate::queue) fn panicked(_queue: &str, _what: &str, _consequence: &str) {}

    pub(in crate::queue) fn interrupted(_queue: &str, _jobs: usize, _error: &Error) {}

    #[derive(Debug, Default)]
    pub(in crate::queue) struct TroubleLog;

    impl TroubleLog {
        pub(in crate::queue) fn report(&self, _queue: &str, _error: &Error) {}
    }
}
