//! Looking after a queue: what is dead, how much there is, and what may go.

use std::time::Duration;

use super::job::micros;
use super::sql::{JOB, no_lease};
use super::{Queue, QueueBackend};
use crate::error::Error;

use crate::transactor::{Options, TransactorExt as _};

/// A job that nobody tries any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadJob {
    /// Its id.
    pub id: i64,
    /// Its payload, in JSON.
    pub json: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt failed with.
    pub last_error: Option<String>,
}

/// How many jobs a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Due, and waiting for a worker.
    pub due: u64,
    /// Not due yet: for later, or for another attempt.
    pub scheduled: u64,
    /// Held by a worker.
    pub claimed: u64,
    /// Dead.
    pub dead: u64,
    /// How long the one that waits longest has been due.
    pub lag: Duration,
}

impl<DB: QueueBackend> Queue<DB> {
    /// The dead jobs that died last, up to `most` of them.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn dead(&self, most: usize) -> Result<Vec<DeadJob>, Error> {
        let most = most.min(10_000);
        let sql = format!(
            "SELECT {JOB} FROM atomically_job WHERE queue = '{}' AND died_at IS NOT NULL \
             ORDER BY died_at DESC, id DESC LIMIT {most}",
            self.name
        );
        let rows = self.db.run(async |tx| Ok::<_, Error>(DB::fetch_jobs(tx, sql).await?)).await?;
        let dead = rows.into_iter().map(|row| DeadJob {
            id: row.id,
            json: row.payload,
            attempts: row.attempts.unsigned_abs(),
            last_error: row.last_error,
        });
        Ok(dead.collect())
    }

    /// Gives a dead job all its attempts anew, due at once. Answers whether there was such a job.
    ///
    /// # Errors
    ///
    /// A [`Constraint`](crate::ErrorKind::Constraint), if another job has its unique key by now; and the
    /// database's.
    pub async fn requeue(&self, id: i64) -> Result<bool, Error> {
        let sql = format!(
            "UPDATE atomically_job SET died_at = NULL, due_at = {}, attempts = 0, token = token + 1 \
             WHERE id = {id} AND queue = '{}' AND died_at IS NOT NULL",
            DB::NOW,
            self.name
        );
        self.db.run(async |tx| Ok(DB::send(tx, sql, Vec::new()).await? > 0)).await
    }

    /// Removes jobs that have been dead for this long, a thousand at a time, and answers how many there were.
    /// Also leases that lapsed so long ago and whose jobs are gone.
    ///
    /// # Errors
    ///
    /// The database's; what was removed until then stays removed.
    pub async fn purge(&self, dead_for: Duration) -> Result<u64, Error> {
        let before = format!("{} - {}", DB::NOW, micros(dead_for));
        let leases =
            format!("until <= {before} AND NOT EXISTS (SELECT 1 FROM atomically_job WHERE id = job_id)");
        self.delete("atomically_job_lease", "job_id", &leases).await?;
        self.delete("atomically_job", "id", &format!("queue = '{}' AND died_at <= {before}", self.name)).await
    }

    async fn delete(&self, table: &str, key: &str, condition: &str) -> Result<u64, Error> {
        let sql = DB::delete_batch(table, key, condition);
        let mut deleted = 0;
        loop {
            match self.db.run(async |tx| Ok::<_, Error>(DB::send(tx, sql.clone(), Vec::new()).await?)).await?
            {
                0 => return Ok(deleted),
                batch => deleted += batch,
            }
        }
    }

    /// How many jobs there are. Counts them, so it is nothing to do for each request.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn counts(&self) -> Result<Counts, Error> {
        let (now, no_lease) = (DB::NOW, no_lease::<DB>());
        let jobs = format!("FROM atomically_job WHERE queue = '{}' AND", self.name);
        let due = format!("due_at <= {now} AND {no_lease}");
        let sql = format!(
            "SELECT (SELECT COUNT(*) {jobs} {due}), \
             (SELECT COUNT(*) {jobs} due_at > {now} AND claimed_at IS NULL), \
             (SELECT COUNT(*) {jobs} claimed_at IS NOT NULL AND NOT ({due})), \
             (SELECT COUNT(*) {jobs} died_at IS NOT NULL), \
             (SELECT COALESCE({now} - MIN(due_at), 0) {jobs} {due})"
        );
        let counts = self.db.with(Options::new().read_only());
        let counts =
            counts.run(async |tx| Ok::<_, Error>(DB::fetch_integers(tx, sql, Vec::new()).await?)).await?;
        let count = |i: usize| counts.get(i).copied().unwrap_or_default().unsigned_abs();
        Ok(Counts {
            due: count(0),
            scheduled: count(1),
            claimed: count(2),
            dead: count(3),
            lag: Duration::from_micros(count(4)),
        })
    }
}
