//! Parameters and rows of the queue's statements, as plain data.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, required};

use super::key::JobKey;
use super::position::IndexPosition;
use super::priority::Priority;

/// The columns of a [`JobRow`].
pub(super) const JOB: &str = "id, token, priority, attempts, max_attempts, due_at, payload, last_error, \
                              key_id, key_limit, has_slot";

/// A row of the table of jobs.
#[derive(Debug)]
pub(super) struct JobRow {
    pub(super) id: i64,
    pub(super) token: i64,
    pub(super) priority: i16,
    pub(super) attempts: u32,
    pub(super) max_attempts: u32,
    /// In microseconds since 1970.
    pub(super) due_at: Option<i64>,
    pub(super) payload: String,
    pub(super) last_error: Option<String>,
    pub(super) key: Option<JobKey>,
    pub(super) has_slot: bool,
}

impl JobRow {
    /// Decodes a row that was selected by [`JOB`].
    pub(super) fn decode<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        fn narrow<T: TryFrom<i64, Error: std::error::Error + Send + Sync + 'static>>(
            value: i64,
        ) -> Result<T, sqlx::Error> {
            T::try_from(value).map_err(|error| sqlx::Error::Decode(error.into()))
        }
        let integer = |column| required(DB::integer(row, column)?, column);
        Ok(Self {
            id: integer(0)?,
            token: integer(1)?,
            priority: narrow(integer(2)?)?,
            attempts: narrow(integer(3)?)?,
            max_attempts: narrow(integer(4)?)?,
            due_at: DB::integer(row, 5)?,
            payload: required(DB::text(row, 6)?, 6)?,
            last_error: DB::text(row, 7)?,
            key: match (DB::integer(row, 8)?, DB::integer(row, 9)?) {
                (Some(id), Some(limit)) => Some(JobKey::stored(id, narrow(limit)?)),
                _ => None,
            },
            has_slot: DB::integer(row, 10)?.is_some(),
        })
    }

    /// Whether the job has to wait until a slot of its key is free.
    pub(super) const fn needs_slot(&self) -> bool {
        self.key.is_some() && !self.has_slot
    }

    /// Whether the job's last attempt has begun. If a claim finds such a job, that attempt has not ended and
    /// its lease has expired.
    pub(super) const fn is_spent(&self) -> bool {
        self.attempts >= self.max_attempts
    }
}

/// The parameters of a claim.
#[derive(Debug, Clone)]
pub(super) struct JobsWanted {
    pub(super) queue: Arc<str>,
    pub(super) limit: usize,
    /// Where to start in the index of each priority.
    pub(super) start: [IndexPosition; Priority::ALL.len()],
    pub(super) lease: Duration,
}

/// The result of an insert.
#[derive(Debug)]
pub(super) struct Inserted {
    pub(super) rows: u64,
    /// The id, if one row was to be inserted.
    pub(super) id: Option<i64>,
}

impl Inserted {
    /// The result of inserting one row: `id` is `None` for a duplicate.
    #[cfg(feature = "postgres")]
    pub(super) fn one(id: Option<i64>) -> Self {
        Self { rows: u64::from(id.is_some()), id }
    }
}
