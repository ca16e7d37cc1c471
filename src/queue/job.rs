//! Jobs that are about to be enqueued.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::key::NewJobKey;
use super::priority::Priority;
use crate::error::Error;

/// The maximum length of a key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// A job to be enqueued.
///
/// ```
/// use atomically::queue::{NewJob, Priority};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), atomically::Error> {
/// let welcome = NewJob::new(&("ann@example.org", "welcome"))?
///     .unique("welcome:ann@example.org")?
///     .run_after(Duration::from_secs(60))
///     .priority(Priority::High)
///     .max_attempts(3);
/// # Ok(()) }
/// ```
///
/// # Why JSON, stored as text?
///
/// A payload outlives the program that wrote it: the program's next version reads it, and so do people who
/// investigate why a job is dead. Text is the same on every database and is returned byte for byte, unlike
/// PostgreSQL's `jsonb`. To query it there, cast it: `payload::jsonb`. Store large or binary values
/// elsewhere, and a reference to them in the payload.
#[derive(Clone)]
#[must_use]
pub struct NewJob {
    pub(super) payload: String,
    pub(super) unique_key: Option<String>,
    pub(super) unique_until_claimed: bool,
    pub(super) due: Due,
    pub(super) priority: Priority,
    pub(super) max_attempts: Option<u32>,
    pub(super) key: Option<NewJobKey>,
}

/// When a job is due, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// This long after the statement that enqueues or reschedules it.
    After(i64),
    /// At this time since 1970.
    At(i64),
}

impl Due {
    pub(super) fn at(time: SystemTime) -> Self {
        Self::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        })
    }

    /// Returns the due time as an SQL expression; `now` is the expression for the current time.
    pub(super) fn sql(self, now: &str) -> String {
        match self {
            Self::After(0) => now.to_owned(),
            Self::After(delay) => format!("{now} + {delay}"),
            Self::At(time) => time.to_string(),
        }
    }
}

/// Serializes a payload.
pub(super) fn json(payload: &(impl Serialize + ?Sized)) -> Result<String, Error> {
    Ok(serde_json::to_string(payload).map_err(|error| sqlx::Error::Encode(Box::new(error)))?)
}

impl NewJob {
    /// Creates a job with this payload that is due immediately.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the payload cannot be serialized as JSON.
    pub fn new(payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        Ok(Self {
            payload: json(payload)?,
            unique_key: None,
            unique_until_claimed: false,
            due: Due::After(0),
            priority: Priority::default(),
            max_attempts: None,
            key: None,
        })
    }

    /// Makes the job unique until it is complete or dead: it is not enqueued if the queue has another job
    /// with the same key, whether that job is waiting or claimed.
    ///
    /// Keys are compared byte by byte. A key can be used again once its job is complete or dead. To do
    /// something only once ever, insert a row of your own in the transaction that does it.
    ///
    /// # `unique` or `unique_until_claimed`?
    ///
    /// If a job is dropped as a duplicate while the other one is *running*, a change may be missed: the
    /// running job may have read its data before the change. If a job means "something has changed", use
    /// [`unique_until_claimed`](Self::unique_until_claimed). To run a job again under its own key, use
    /// [`Claim::reschedule_in`](super::Claim::reschedule_in): while the job is not complete, a successor with
    /// the same key is a duplicate of it.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the key has more than 255 bytes, or contains a NUL.
    pub fn unique(self, key: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { unique_key: Some(checked("unique", key.into())?), unique_until_claimed: false, ..self })
    }

    /// Makes the job unique until it is claimed: it is not enqueued if another job with the same key is
    /// waiting in the queue. A job that has been claimed does not count, so a change while it runs gets a job
    /// of its own.
    ///
    /// The first claim removes the key for good: when the job fails and is retried, or is rescheduled,
    /// another job with the same key may exist. Both kinds of uniqueness share one set of keys.
    ///
    /// ```
    /// use atomically::queue::NewJob;
    ///
    /// # fn main() -> Result<(), atomically::Error> {
    /// // All changes while the job waits are one job; a change while it runs is the next one.
    /// let reindex = NewJob::new(&7)?.unique_until_claimed("reindex:product:7")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the key has more than 255 bytes, or contains a NUL.
    pub fn unique_until_claimed(self, key: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { unique_until_claimed: true, ..self.unique(key)? })
    }

    /// Delays the job: it is due after `delay`, by the database's clock.
    pub fn run_after(mut self, delay: Duration) -> Self {
        self.due = Due::After(micros(delay));
        self
    }

    /// Schedules the job: it is due at `time`, by the database's clock.
    pub fn run_at(mut self, time: SystemTime) -> Self {
        self.due = Due::at(time);
        self
    }

    /// Sets the priority among the jobs that are due. The default is [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the maximum number of attempts, including the first; 0 counts as 1. The default is that of the
    /// [queue](super::Queue::max_attempts).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }
}

/// Leaves out the payload and the key, which may be confidential.
impl fmt::Debug for NewJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("payload_bytes", &self.payload.len())
            .field("is_unique", &self.unique_key.is_some())
            .field("due", &self.due)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

/// Checks a key of this kind.
pub(super) fn checked(kind: &str, key: String) -> Result<String, Error> {
    let problem = match key.len() {
        _ if key.contains('\0') => "contains a NUL".to_owned(),
        0..=MAX_KEY_BYTES => return Ok(key),
        bytes => format!("has {bytes} bytes"),
    };
    Err(Error::invalid_input(format!(
        "invalid {kind} key: a key has at most {MAX_KEY_BYTES} bytes and no NUL, and this one {problem}"
    )))
}

/// The result of enqueuing a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a duplicate was not enqueued"]
pub enum Enqueued {
    /// The job has this id, and is in the queue once the transaction commits. The database never gives the id
    /// to another job.
    Added(i64),
    /// The queue already has a job with the same unique key, and the new one was not enqueued. The existing
    /// job may already be running: see [`NewJob::unique`].
    Duplicate,
}

impl Enqueued {
    /// Returns the id of the job if it was added.
    #[must_use]
    pub const fn id(self) -> Option<i64> {
        match self {
            Self::Added(id) => Some(id),
            Self::Duplicate => None,
        }
    }
}

/// Returns a duration in microseconds. The result is limited to several thousand years, so that it can be
/// added to the current time.
pub(super) fn micros(duration: Duration) -> i64 {
    const MAX_MICROS: i64 = 1 << 58;
    i64::try_from(duration.as_micros()).unwrap_or(MAX_MICROS).min(MAX_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_overflows() {
        assert_eq!(micros(Duration::from_secs(1)), 1_000_000);
        assert!(micros(Duration::MAX).checked_mul(2).is_some());
    }

    #[test]
    fn a_unique_key_that_is_too_long_is_refused() {
        let job = || NewJob::new(&()).expect("a payload");
        assert!(job().unique("k".repeat(255)).is_ok());
        let error = job().unique("k".repeat(256)).expect_err("too long");
        assert!(error.to_string().contains("255 bytes"), "{error}");
        assert!(job().unique("a\0b").is_err());
    }
}
