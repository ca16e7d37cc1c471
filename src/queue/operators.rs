//! Maintenance of a queue: dead jobs, counts, and purging.

use std::time::Duration;

use super::Queue;
use super::job::micros;
use super::row::JOB;
use super::sql::{QueueSql, execute, fetch_integers, fetch_jobs};
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
    /// The number of attempts that were made.
    pub attempts: u32,
    /// The error of the last attempt.
    pub last_error: Option<String>,
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
            "SELECT {JOB} FROM atomically_job WHERE queue = '{}' AND died_at IS NOT NULL \
             ORDER BY died_at DESC, id DESC LIMIT {limit}",
            self.name
        );
        let rows = self.db.run(async |tx| Ok::<_, Error>(fetch_jobs(tx, self.schema(), sql).await?)).await?;
        let dead = rows.into_iter().map(|row| DeadJob {
            id: row.id,
            json: row.payload,
            attempts: row.attempts,
            last_error: row.last_error,
        });
        Ok(dead.collect())
    }

    /// Requeues a dead job: it is due immediately and gets all its attempts again. Returns whether there was
    /// a dead job with this id.
    ///
    /// # Errors
    ///
    /// [`Constraint`](crate::ErrorKind::Constraint): another job has the same unique key by now. Otherwise
    /// the database's.
    pub async fn requeue(&self, id: i64) -> Result<bool, Error> {
        let sql = format!(
            "UPDATE atomically_job SET died_at = NULL, due_at = {}, attempts = 0, token = token + 1 \
             WHERE id = {id} AND queue = '{}' AND died_at IS NOT NULL",
            QueueSql::of::<DB>().now,
            self.name
        );
        self.db.run(async |tx| Ok(execute(tx, self.schema(), sql).await? > 0)).await
    }

    /// Deletes jobs that have been dead for longer than `dead_for`, a thousand per transaction, and returns
    /// their number. Also deletes leases that expired as long ago and whose jobs are gone.
    /// [`Purge`](crate::Purge) does that at intervals.
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
        self.delete("atomically_job", "id", &condition).await
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
             (SELECT COALESCE({now} - MIN(due_at), 0) {jobs} {due})"
        );
        let counts = self.read_integers(select).await?;
        let count = |i: usize| counts.get(i).copied().unwrap_or_default().unsigned_abs();
        Ok(Counts {
            due: count(0),
            scheduled: count(1),
            claimed: count(2),
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
