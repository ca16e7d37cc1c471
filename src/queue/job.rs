//! What is put into a queue.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::priority::Priority;
use super::sql::Dialect;
use crate::error::Error;

/// The longest unique key, in bytes.
const MAX_KEY_BYTES: usize = 255;

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
/// A payload outlives the program that wrote it: it is read by its next version, by hand, and by whoever asks
/// why a job is dead. Text is the same on every database and comes back byte by byte, which PostgreSQL's
/// `jsonb` does not, and `payload::jsonb` is there when it is to be looked into. Large or binary things
/// belong somewhere else, and their name into the payload.
#[derive(Clone)]
#[must_use]
pub struct NewJob {
    pub(super) payload: String,
    pub(super) unique_key: Option<String>,
    pub(super) unique_until_claimed: bool,
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

impl Due {
    pub(super) fn at(time: SystemTime) -> Self {
        Self::At(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        })
    }

    /// As an expression of SQL.
    pub(super) fn text<DB: Dialect>(self) -> String {
        let now = DB::NOW;
        match self {
            Self::After(0) => now.to_owned(),
            Self::After(delay) => format!("{now} + {delay}"),
            Self::At(time) => time.to_string(),
        }
    }
}

/// A payload as it is kept.
pub(super) fn json(payload: &(impl Serialize + ?Sized)) -> Result<String, Error> {
    Ok(serde_json::to_string(payload).map_err(|error| sqlx::Error::Encode(Box::new(error)))?)
}

impl NewJob {
    /// A job with this payload, due at once.
    ///
    /// # Errors
    ///
    /// The payload cannot be written as JSON.
    pub fn new(payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        Ok(Self {
            payload: json(payload)?,
            unique_key: None,
            unique_until_claimed: false,
            due: Due::After(0),
            priority: Priority::default(),
            max_attempts: None,
        })
    }

    /// Makes the job unique until it is done: it is left out if the queue has another job with the same key,
    /// be it waiting or being worked on.
    ///
    /// The key is compared byte by byte. It is free again when the job is complete or dead: to do something
    /// once and never again, keep a row of your own that says so, in the transaction that does it.
    ///
    /// # Which of the two?
    ///
    /// A job that is left out because its twin is *being worked on* may be lost work: the twin may have read
    /// its data before they changed. Where a job stands for "something has changed, look at it", use
    /// [`unique_until_claimed`](Self::unique_until_claimed). A job that is to come back under its own key is
    /// put back by [`Claim::reschedule_in`](super::Claim::reschedule_in): as long as it is not complete, a
    /// successor with the same key is a duplicate of it.
    ///
    /// # Errors
    ///
    /// A key of more than 255 bytes, or with a NUL in it.
    pub fn unique(self, key: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { unique_key: Some(checked(key.into())?), unique_until_claimed: false, ..self })
    }

    /// Makes the job unique until it is claimed: it is left out if the queue has another job with the same
    /// key that nobody works on yet. A claimed job is none, so whatever changes while it runs gets a job of
    /// its own.
    ///
    /// The key is given up at the first claim and does not come back: when the job fails and is tried again,
    /// or is rescheduled, there may be another one with its key beside it. Jobs of both modes share one set
    /// of keys.
    ///
    /// ```
    /// use atomically::queue::NewJob;
    ///
    /// # fn main() -> Result<(), atomically::Error> {
    /// // Any number of changes while it waits are one job; a change while it runs is the next one.
    /// let reindex = NewJob::new(&7)?.unique_until_claimed("reindex:product:7")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A key of more than 255 bytes, or with a NUL in it.
    pub fn unique_until_claimed(self, key: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { unique_until_claimed: true, ..self.unique(key)? })
    }

    /// Not due before this much time has passed, by the database's clock.
    pub fn run_after(mut self, delay: Duration) -> Self {
        self.due = Due::After(micros(delay));
        self
    }

    /// Not due before this time, by the database's clock.
    pub fn run_at(mut self, time: SystemTime) -> Self {
        self.due = Due::at(time);
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

/// Without the payload and the key, which are the program's values.
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

/// Checks a unique key.
fn checked(key: String) -> Result<String, Error> {
    if key.len() <= MAX_KEY_BYTES && !key.contains('\0') {
        return Ok(key);
    }
    let what = if key.contains('\0') { "has a NUL".to_owned() } else { format!("has {} bytes", key.len()) };
    Err(Error::invalid_input(format!(
        "a unique key has at most {MAX_KEY_BYTES} bytes and no NUL, and this one {what}"
    )))
}

/// What became of a job that was to be put into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a duplicate was not put into the queue"]
pub enum Enqueued {
    /// It is in the queue, once the transaction commits. Its id is never given to another job of this
    /// database.
    Added(i64),
    /// A job with the same unique key is there already, and this one was not put into the queue. The one that
    /// is there may be the job that is being worked on right now: see [`NewJob::unique`].
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

/// Microseconds, as far as the database can count them: a century is as good as for ever, and leaves room to
/// add to.
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
