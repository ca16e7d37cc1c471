//! Maintenance of a queue: dead jobs, counts, and purging.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use super::Queue;
use super::job::micros;
use super::listing::payload;
use super::sql::{QueueSql, execute, fetch_integers};
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Options, TransactorExt as _};

/// A dead job: it is not retried unless it is requeued.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadJob {
    /// The id of the job.
    pub id: i64,
    /// The payload, in JSON.
    pub json: String,
    /// When the job died, by the database's clock.
    pub died_at: SystemTime,
    /// The number of attempts that were made.
    pub attempts: u32,
    /// The error of the last attempt.
    pub last_error: Option<String>,
}

impl DeadJob {
    /// Deserializes the payload.
    ///
    /// # Errors
    ///
    /// [`Decode`](crate::ErrorKind::Decode): the stored JSON cannot be deserialized as a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        payload(&self.json)
    }
}

/// The number of jobs in a queue, by state: what [`Queue::counts`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Jobs that are due and can be claimed.
    pub due: u64,
    /// Jobs that are due later, for the first time or for another attempt.
    pub scheduled: u64,
    /// Jobs that a worker holds.
    pub claimed: u64,
    /// Jobs that wait for other jobs of their [order](super::NewJob::in_order_of) or
    /// [limit](super::NewJob::at_most).
    pub waiting: u64,
    /// Dead jobs.
    pub dead: u64,
    /// The time since the oldest of the due jobs was due; zero if there are none.
    pub lag: Duration,
}

impl<DB: Backend> Queue<DB> {
    /// Returns up to `limit` dead jobs, but no more than 10 000, the most recently died first.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn dead(&self, limit: usize) -> Result<Vec<DeadJob>, Error> {
        let limit = limit.min(10_000);
        let sql = format!(
            "{} AND died_at IS NOT NULL ORDER BY died_at DESC, id DESC LIMIT {limit}",
            self.select_jobs()
        );
        let dead = self.read_jobs(sql).await?.into_iter().map(|job| DeadJob {
            id: job.id,
            json: job.json,
            died_at: job.died_at.unwrap_or(UNIX_EPOCH),
            attempts: job.attempts,
            last_error: job.last_error,
        });
        Ok(dead.collect())
    }

    /// Deletes jobs that have been dead for longer than `dead_for`, a thousand per transaction, and returns
    /// their number. If other jobs waited for a dead one, the next of them is due. Also deletes leases that
    /// expired as long ago and whose jobs are gone. [`Purge`](crate::Purge) does that at intervals.
    ///
    /// # Errors
    ///
    /// Returns the database's error. What has been deleted until then stays deleted.
    pub async fn purge(&self, dead_for: Duration) -> Result<u64, Error> {
        self.purge_leases(dead_for).await?;
        self.purge_jobs(dead_for).await
    }

    /// Deletes leases that expired this long ago and whose jobs are gone.
    pub(crate) async fn purge_leases(&self, expired_for: Duration) -> Result<u64, Error> {
        let condition = format!(
            "until <= {} - {} AND NOT EXISTS (SELECT 1 FROM atomically_job WHERE id = job_id)",
            QueueSql::of::<DB>().now,
            micros(expired_for)
        );
        self.delete("atomically_job_lease", "job_id", &condition).await
    }

    /// Deletes jobs that have been dead for this long.
    pub(crate) async fn purge_jobs(&self, dead_for: Duration) -> Result<u64, Error> {
        let now = QueueSql::of::<DB>().now;
        let condition = format!("queue = '{}' AND died_at <= {now} - {}", self.name, micros(dead_for));
        let mut purged =
            self.delete("atomically_job", "id", &format!("{condition} AND has_slot IS NULL")).await?;
        // Other jobs may be waiting for these.
        let blocking = format!("SELECT id FROM atomically_job WHERE {condition} AND has_slot = 1 LIMIT 1000");
        loop {
            let mut is_purged = false;
            for id in self.read_integers(blocking.clone()).await? {
                if self.discard(id).await? {
                    (is_purged, purged) = (true, purged + 1);
                }
            }
            if !is_purged {
                return Ok(purged);
            }
        }
    }

    async fn delete(&self, table: &str, key: &str, condition: &str) -> Result<u64, Error> {
        let sql = &(QueueSql::of::<DB>().delete_batch)(table, key, condition);
        let mut deleted = 0;
        loop {
            match self.db.run(async |tx| Ok::<_, Error>(execute(tx, self.schema(), sql).await?)).await? {
                0 => return Ok(deleted),
                batch => deleted += batch,
            }
        }
    }

    /// Counts the jobs by state. This reads all jobs of the queue; for monitoring use
    /// [`depth`](Self::depth).
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn counts(&self) -> Result<Counts, Error> {
        let sql = QueueSql::of::<DB>();
        let (now, no_lease) = (sql.now, sql.no_lease());
        let jobs = format!("FROM atomically_job WHERE queue = '{}' AND", self.name);
        let due = format!("due_at <= {now} AND {no_lease}");
        let select = format!(
            "SELECT (SELECT COUNT(*) {jobs} {due}), \
             (SELECT COUNT(*) {jobs} due_at > {now} AND claimed_at IS NULL), \
             (SELECT COUNT(*) {jobs} claimed_at IS NOT NULL AND NOT ({due})), \
             (SELECT COUNT(*) {jobs} died_at IS NOT NULL), \
             (SELECT COALESCE({now} - MIN(due_at), 0) {jobs} {due}), \
             (SELECT COUNT(*) {jobs} waiting_key IS NOT NULL)"
        );
        let counts = self.read_integers(select).await?;
        let count = |i: usize| counts.get(i).copied().unwrap_or_default().unsigned_abs();
        Ok(Counts {
            due: count(0),
            scheduled: count(1),
            claimed: count(2),
            waiting: count(5),
            dead: count(3),
            lag: Duration::from_micros(count(4)),
        })
    }

    /// Runs a query in a read-only transaction of its own.
    pub(super) async fn read_integers(&self, sql: String) -> Result<Vec<i64>, Error> {
        let db = self.db.with(Options::new().queries_only());
        db.run(async |tx| Ok(fetch_integers(tx, self.schema(), sql).await?)).await
    }
}
