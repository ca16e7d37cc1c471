//! Reads single jobs, and lists jobs by state.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use super::Queue;
use super::priority::Priority;
use super::sql::{QueueSql, fetch_rows};
use crate::backend::{Backend, required};
use crate::error::Error;
use crate::transactor::{Options, TransactorExt as _};

/// The maximum number of jobs of one page.
const MAX_PAGE: usize = 10_000;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobState {
    /// Due: it can be claimed. This includes jobs whose leases have expired.
    Due,
    /// Due later, for the first time or for another attempt.
    Scheduled,
    /// A worker holds it.
    Claimed,
    /// It waits for other jobs of its [order](super::NewJob::in_order_of) or
    /// [limit](super::NewJob::at_most).
    Waiting,
    /// Dead: it is not retried unless it is requeued.
    Dead,
}

impl JobState {
    const ALL: [Self; 5] = [Self::Due, Self::Scheduled, Self::Claimed, Self::Waiting, Self::Dead];

    /// The condition that a job has this state. Each job has exactly one.
    fn condition(self, sql: &QueueSql) -> String {
        let now = sql.now;
        let due = format!("due_at <= {now} AND {}", sql.no_lease());
        match self {
            Self::Due => due,
            Self::Scheduled => format!("due_at > {now} AND claimed_at IS NULL"),
            Self::Claimed => format!("claimed_at IS NOT NULL AND NOT ({due})"),
            Self::Waiting => "waiting_key IS NOT NULL".to_owned(),
            Self::Dead => "died_at IS NOT NULL".to_owned(),
        }
    }
}

/// A job as it is stored: what [`Queue::get`] and [`Queue::list`] return.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The id of the job.
    pub id: i64,
    /// The state when the job was read.
    pub state: JobState,
    /// The payload, in JSON.
    pub json: String,
    /// The priority.
    pub priority: Priority,
    /// The number of attempts that have begun.
    pub attempts: u32,
    /// The maximum number of attempts.
    pub max_attempts: u32,
    /// When the job was enqueued.
    pub enqueued_at: SystemTime,
    /// When the job is due; for a claimed job, when its first lease ends. `None` for dead jobs.
    pub due_at: Option<SystemTime>,
    /// When the job was claimed, if it is.
    pub claimed_at: Option<SystemTime>,
    /// When the job died, if it is dead.
    pub died_at: Option<SystemTime>,
    /// The error of the last attempt that failed.
    pub last_error: Option<String>,
    /// The key of its [order](super::NewJob::in_order_of) or [limit](super::NewJob::at_most).
    pub key: Option<String>,
}

/// The columns from which a [`Job`] is decoded, after its state.
const COLUMNS: &str = "id, payload, priority, attempts, max_attempts, enqueued_at, \
                       COALESCE(due_at, wanted_at), claimed_at, died_at, last_error, key_name";

impl Job {
    /// Deserializes the payload.
    ///
    /// # Errors
    ///
    /// [`Decode`](crate::ErrorKind::Decode): the stored JSON cannot be deserialized as a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        payload(&self.json)
    }

    fn decode<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let integer = |column| required(DB::integer(row, column)?, column);
        let count = |column| integer(column).map(|count| u32::try_from(count).unwrap_or_default());
        let priority = integer(3)?;
        Ok(Self {
            state: usize::try_from(integer(0)?)
                .ok()
                .and_then(|state| JobState::ALL.get(state).copied())
                .unwrap_or(JobState::Claimed),
            id: integer(1)?,
            json: required(DB::text(row, 2)?, 2)?,
            priority: Priority::ALL
                .into_iter()
                .find(|known| i64::from(known.number()) == priority)
                .unwrap_or_default(),
            attempts: count(4)?,
            max_attempts: count(5)?,
            enqueued_at: time(integer(6)?),
            due_at: DB::integer(row, 7)?.map(time),
            claimed_at: DB::integer(row, 8)?.map(time),
            died_at: DB::integer(row, 9)?.map(time),
            last_error: DB::text(row, 10)?,
            key: DB::text(row, 11)?,
        })
    }
}

/// Deserializes a payload.
pub(super) fn payload<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    Ok(serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(Box::new(error)))?)
}

/// Returns a time that is stored in microseconds since 1970.
pub(super) fn time(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

impl<DB: Backend> Queue<DB> {
    /// Returns the job with this id; `None` if it is complete, or was never in this queue.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn get(&self, id: i64) -> Result<Option<Job>, Error> {
        Ok(self.read_jobs(format!("{} AND id = {id}", self.select_jobs())).await?.pop())
    }

    /// Returns up to `limit` jobs in this state, but no more than 10 000, in the order of their ids.
    ///
    /// To read page after page, pass the id of the last job of the previous page as `after`. A job that
    /// changes its state meanwhile may be missed or be listed twice, but no others are.
    ///
    /// ```
    /// # use atomically::queue::{JobState, Queue};
    /// # async fn example(queue: Queue<sqlx::Sqlite>) -> Result<(), atomically::Error> {
    /// let mut after = None;
    /// loop {
    ///     let page = queue.list(JobState::Waiting, after, 100).await?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.id);
    ///     for job in &page {
    ///         println!("{} waits for {:?}", job.id, job.key);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// This is for people and scripts: a page of a rare state may read all jobs of the queue. To work on
    /// jobs, [claim](Self::claim) them.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn list(&self, state: JobState, after: Option<i64>, limit: usize) -> Result<Vec<Job>, Error> {
        let condition = state.condition(QueueSql::of::<DB>());
        let condition = match after {
            Some(after) => format!("id > {after} AND {condition}"),
            None => condition,
        };
        let limit = limit.min(MAX_PAGE);
        self.read_jobs(format!("{} AND {condition} ORDER BY id LIMIT {limit}", self.select_jobs())).await
    }

    /// Returns a query for [`read_jobs`](Self::read_jobs), to which more conditions can be added.
    pub(super) fn select_jobs(&self) -> String {
        let sql = QueueSql::of::<DB>();
        let states = JobState::ALL.into_iter().enumerate();
        let states: Vec<_> =
            states.map(|(number, state)| format!("WHEN {} THEN {number}", state.condition(sql))).collect();
        format!(
            "SELECT CASE {} ELSE -1 END, {COLUMNS} FROM atomically_job WHERE queue = '{}'",
            states.join(" "),
            self.name
        )
    }

    pub(super) async fn read_jobs(&self, select: String) -> Result<Vec<Job>, Error> {
        let db = self.db.with(Options::new().read_only());
        db.run(async |tx| {
            let rows = fetch_rows(tx, self.schema(), select.clone()).await?;
            Ok(rows.iter().map(Job::decode::<DB>).collect::<Result<_, _>>()?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_times_are_microseconds_since_1970() {
        assert_eq!(time(1_500_000), UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(time(-1), UNIX_EPOCH - Duration::from_micros(1));
    }
}
