//! What queues write to the log, where the feature `tracing` is on.

/// Why a job is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// Its last attempt failed.
    Exhausted,
    /// It was not to be tried again.
    GivenUp,
    /// The lease of its last attempt lapsed.
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
pub(super) use with::{Troubles, died, panicked};
#[cfg(not(feature = "tracing"))]
pub(super) use without::{Troubles, died, panicked};

#[cfg(feature = "tracing")]
mod with {
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use tokio::time::Instant;
    use tracing::{error, warn};

    use super::Death;
    use crate::error::Error;

    /// How often the same trouble is reported.
    const SELDOM: Duration = Duration::from_secs(5 * 60);

    /// A job that nobody tries any more.
    pub(in crate::queue) fn died(queue: &str, id: i64, death: Death, attempts: u32, error: &str) {
        let kind = death.as_str();
        error!(
            target: "atomically", queue, job = id, kind, attempts, error,
            "job {id} of the queue {queue:?} is dead after {attempts} attempts ({kind}): {error}"
        );
    }

    /// A part of a worker that is the caller's has panicked, and the worker goes on.
    pub(in crate::queue) fn panicked(queue: &str, what: &str, consequence: &str) {
        error!(target: "atomically", queue, "{what} of a worker of the queue {queue:?} panicked: {consequence}");
    }

    /// When troubles of a worker were last reported: missing tables, and all others.
    #[derive(Debug, Default)]
    pub(in crate::queue) struct Troubles(Mutex<[Option<Instant>; 2]>);

    impl Troubles {
        /// Reports what is in the way of a worker, the first time and then seldom: it tries again every
        /// second.
        pub(in crate::queue) fn report(&self, queue: &str, error: &Error) {
            let is_missing = lacks_tables(error);
            let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let [missing, others] = &mut *reported;
            let last = if is_missing { missing } else { others };
            if last.is_some_and(|last| last.elapsed() < SELDOM) {
                return;
            }
            *last = Some(Instant::now());
            if is_missing {
                error!(
                    target: "atomically", queue,
                    "a worker of the queue {queue:?} does not find the tables atomically_job and atomically_job_lease: \
                     {error}. Call Queue::create_tables, or run the statements of Queue::schema in a migration. The worker \
                     goes on looking for them"
                );
            } else {
                warn!(
                    target: "atomically", queue,
                    "a worker of the queue {queue:?} could not do what it was about to, and will try again: {error}"
                );
            }
        }
    }

    /// PostgreSQL's and MySQL's codes for it, and what SQLite says.
    fn lacks_tables(error: &Error) -> bool {
        let known = error.failure().and_then(|failure| failure.code().map(str::to_owned));
        let driver = error.driver_error().and_then(|error| error.as_database_error());
        let code = known.or_else(|| driver.and_then(|error| error.code().map(Into::into)));
        matches!(code.as_deref(), Some("42P01" | "42S02" | "1146"))
            || error.to_string().contains("no such table")
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    use super::Death;
    use crate::error::Error;

    pub(in crate::queue) fn died(_queue: &str, _id: i64, _death: Death, _attempts: u32, _error: &str) {}

    pub(in crate::queue) fn panicked(_queue: &str, _what: &str, _consequence: &str) {}

    #[derive(Debug, Default)]
    pub(in crate::queue) struct Troubles;

    impl Troubles {
        pub(in crate::queue) fn report(&self, _queue: &str, _error: &Error) {}
    }
}
