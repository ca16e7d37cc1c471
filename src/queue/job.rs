//! What is put into a queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::priority::Priority;
use crate::error::Error;

/// The longest unique key, in bytes.
const LONGEST_KEY: usize = 255;

/// A job that is about to be put into a queue.
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
/// # Why JSON, kept as text?
///
/// A payload outlives the program that wrote it: it is read by its next version, by hand, and by whoever asks why a job is
/// dead. Text is the same on every database and comes back byte by byte, which PostgreSQL's `jsonb` does not, and
/// `payload::jsonb` is there when it is to be looked into. Large or binary things belong somewhere else, and their name
/// into the payload.
#[derive(Debug, Clone)]
#[must_use]
pub struct NewJob {
    pub(super) payload: String,
    pub(super) unique_key: Option<String>,
    pub(super) due: Due,
    pub(super) priority: Priority,
    pub(super) max_attempts: Option<u32>,
}

/// When a job is due, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// So long after it is enqueued.
    After(i64),
    /// Since 1970.
    At(i64),
}

impl NewJob {
    /// A job with this payload, due at once.
    ///
    /// # Errors
    ///
    /// The payload cannot be written as JSON.
    pub fn new(payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let payload = serde_json::to_string(payload).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        Ok(Self {
            payload,
            unique_key: None,
            due: Due::After(0),
            priority: Priority::default(),
            max_attempts: None,
        })
    }

    /// Is left out if there is a job with the same key in the queue that is neither done nor dead.
    ///
    /// The key is compared byte by byte. It is free again when the job is done: to do something once and never again, keep
    /// a row of your own that says so, in the transaction that does it.
    ///
    /// # Errors
    ///
    /// A key of more than 255 bytes, or with a NUL in it.
    pub fn unique(mut self, key: impl Into<String>) -> Result<Self, Error> {
        let key = key.into();
        if key.len() > LONGEST_KEY || key.contains('\0') {
            let message =
                format!("a unique key has at most {LONGEST_KEY} bytes and no NUL, this one is {key:?}");
            return Err(sqlx::Error::Encode(message.into()).into());
        }
        self.unique_key = Some(key);
        Ok(self)
    }

    /// Not due before this much time has passed, by the database's clock.
    pub fn run_after(mut self, delay: Duration) -> Self {
        self.due = Due::After(micros(delay));
        self
    }

    /// Not due before this time, by the database's clock.
    pub fn run_at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        });
        self
    }

    /// Whose turn it is first, among the jobs that are due.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// How often the job is tried, the first time included; 0 counts as 1. The default is that of the
    /// [queue](super::Queue::max_attempts).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }
}

/// What became of a job that was to be put into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Enqueued {
    /// It is in the queue, once the transaction commits. Its id is never given to another job of this database.
    Added(i64),
    /// A job with the same unique key is there already.
    Duplicate,
}

impl Enqueued {
    /// The id of the job that was added.
    #[must_use]
    pub const fn id(self) -> Option<i64> {
        match self {
            Self::Added(id) => Some(id),
            Self::Duplicate => None,
        }
    }
}

/// Microseconds, as far as the database can count them: a century is as good as for ever, and leaves room to add to.
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURIES: i64 = 1 << 58;
    i64::try_from(duration.as_micros()).unwrap_or(CENTURIES).min(CENTURIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_overflows() {
        assert_eq!(micros(Duration::from_secs(1)), 1_000_000);
        assert!(micros(Duration::MAX).checked_mul(2).is_some());
    }

    #[test]
    fn keys_have_a_limit() {
        let job = || NewJob::new(&()).expect("a payload");
        assert!(job().unique("k".repeat(255)).is_ok());
        let error = job().unique("k".repeat(256)).expect_err("too long");
        assert!(error.to_string().contains("255 bytes"), "{error}");
        assert!(job().unique("a\0b").is_err());
    }
}
