//! What operators change: cancels, discards and requeues jobs, and pauses queues.

use super::Queue;
use super::admission::wait_for_slot;
use super::key::JobKey;
use super::slots::{self, FreedSlots, SlotLimit};
use super::sql::{QueueSql, execute, fetch_integers, id_list};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind};
use crate::isolation::Isolation;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// The maximum number of jobs that one statement requeues.
const MAX_BATCH: usize = 1_000;

const IS_DEAD: &str = "died_at IS NOT NULL";

/// A job whose key is locked.
struct LockedJob {
    key: Option<JobKey>,
    has_slot: bool,
}

impl LockedJob {
    /// The slots of its key that become free if the job is deleted: one, or none if it was waiting.
    fn slots(&self) -> FreedSlots {
        self.key.iter().map(|key| (key.id, u64::from(self.has_slot))).collect()
    }
}

impl<DB: Backend> Queue<DB> {
    /// Cancels a job: deletes it, whether it is due, scheduled, waiting, claimed or dead. Returns whether
    /// there was a job with this id.
    ///
    /// If a worker holds the job, its transaction is [fenced off](super::Claim#the-fence), and its handler is
    /// cancelled when it extends its lease. What the handler has done outside of that transaction is not
    /// undone. To cancel a job together with the reason for it, use [`cancel_in`](Self::cancel_in).
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn cancel(&self, id: i64) -> Result<bool, Error> {
        self.db.run(async |tx| self.cancel_in(tx, id).await).await
    }

    /// Cancels a job in the caller's transaction: the job is [cancelled](Self::cancel) if, and only if, the
    /// rest of the transaction is stored. The job's row, and its key if it has one, are locked from then on,
    /// so call this last.
    ///
    /// Above READ COMMITTED, PostgreSQL does not find a job whose transaction committed after this one had
    /// read for the first time.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn cancel_in(&self, tx: &mut Tx<DB>, id: i64) -> Result<bool, Error> {
        self.delete_job(tx, id, "1 = 1").await
    }

    /// Deletes a dead job. Returns whether there was a dead job with this id. The next job of its key, if it
    /// was waiting for the dead one, is due.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn discard(&self, id: i64) -> Result<bool, Error> {
        self.db.run(async |tx| self.delete_job(tx, id, IS_DEAD).await).await
    }

    async fn delete_job(&self, tx: &mut Tx<DB>, id: i64, condition: &str) -> Result<bool, Error> {
        let Some(job) = self.lock_job(tx, id, condition).await? else { return Ok(false) };
        let delete = format!("DELETE FROM atomically_job WHERE id = {id} AND {condition}");
        execute(tx, self.schema(), delete).await?;
        slots::free(tx, self.schema(), &job.slots()).await?;
        Ok(true)
    }

    /// Locks a job that fulfils a condition, and before that its key.
    async fn lock_job(&self, tx: &mut Tx<DB>, id: i64, condition: &str) -> Result<Option<LockedJob>, Error> {
        let lock = slots::lock_clause(tx)?;
        let job = format!("FROM atomically_job WHERE id = {id} AND queue = '{}' AND {condition}", self.name);
        // Neither changes during the life of a job.
        let key = format!("SELECT COALESCE(key_id, 0), COALESCE(key_limit, -1) {job}");
        let mut found = fetch_integers(tx, self.schema(), key.clone()).await?;
        if found.is_empty() && tx.plan().isolation != Isolation::ReadCommitted && !lock.is_empty() {
            // The snapshot of a transaction of MySQL or MariaDB may be older than the job. A read with a lock
            // is not of the snapshot. If it finds the job, the job is locked before its key, as nowhere else.
            found = fetch_integers(tx, self.schema(), format!("{key} {lock}")).await?;
        }
        let key = match found[..] {
            [id, limit] => u32::try_from(limit).ok().map(|limit| JobKey::stored(id, limit)),
            _ => return Ok(None),
        };
        if let Some(key) = key {
            slots::lock_or_create(tx, self.schema(), [key], SlotLimit::Existing).await?;
        }
        let has_slot = format!("SELECT COALESCE(has_slot, 0) {job} {lock}");
        match fetch_integers(tx, self.schema(), has_slot).await?.first() {
            Some(has_slot) => Ok(Some(LockedJob { key, has_slot: *has_slot > 0 })),
            None => {
                // Another transaction has deleted or changed the job meanwhile.
                slots::free(tx, self.schema(), &slots::none_of(key.as_slice())).await?;
                Ok(None)
            }
        }
    }

    /// Requeues a dead job: it is due immediately and gets all its attempts again. Returns whether there was
    /// a dead job with this id.
    ///
    /// An [ordered](super::NewJob::in_order_of) job that the others wait for is due; one that was
    /// [skipped](Self::skip_dead) is the next job of its key.
    ///
    /// # Errors
    ///
    /// [`Constraint`](crate::ErrorKind::Constraint): another job has the same unique key by now. Otherwise
    /// the database's.
    pub async fn requeue(&self, id: i64) -> Result<bool, Error> {
        self.db.run(async |tx| self.requeue_in(tx, id).await).await
    }

    async fn requeue_in(&self, tx: &mut Tx<DB>, id: i64) -> Result<bool, Error> {
        let Some(job) = self.lock_job(tx, id, IS_DEAD).await? else { return Ok(false) };
        let (schema, now) = (self.schema(), QueueSql::of::<DB>().now);
        let revive = "died_at = NULL, attempts = 0, token = token + 1";
        match job.key.filter(|_| !job.has_slot) {
            Some(key) => {
                wait_for_slot(self, tx, key.id, &[id], revive).await?;
                slots::free(tx, schema, &slots::none_of(&[key])).await?;
            }
            None => {
                let update = format!("UPDATE atomically_job SET {revive}, due_at = {now} WHERE id = {id}");
                execute(tx, schema, update).await?;
            }
        }
        Ok(true)
    }

    /// Requeues dead jobs, as [`requeue`](Self::requeue) does, and returns how many it has requeued. Jobs
    /// that are not dead are left as they are, and so are jobs whose unique key another job has by now.
    ///
    /// Jobs without keys are requeued a thousand per transaction, the others one by one.
    ///
    /// ```
    /// # use atomically::queue::Queue;
    /// # async fn example(queue: Queue<sqlx::Sqlite>) -> Result<(), atomically::Error> {
    /// // The service is available again.
    /// let dead = queue.dead(1_000).await?;
    /// let is_refused = |error: &String| error.contains("connection refused");
    /// let refused = dead.iter().filter(|job| job.last_error.as_ref().is_some_and(is_refused));
    /// queue.requeue_many(&refused.map(|job| job.id).collect::<Vec<_>>()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the database's error. What has been requeued until then stays requeued.
    pub async fn requeue_many(&self, ids: &[i64]) -> Result<u64, Error> {
        let (schema, now, mut requeued) = (self.schema(), QueueSql::of::<DB>().now, 0);
        for ids in ids.chunks(MAX_BATCH) {
            let ids = id_list(ids.iter().copied());
            let dead = format!("id IN ({ids}) AND queue = '{}' AND {IS_DEAD}", self.name);
            let revive = &format!(
                "UPDATE atomically_job SET died_at = NULL, due_at = {now}, attempts = 0, token = token + 1 \
                 WHERE {dead} AND unique_key IS NULL AND key_id IS NULL"
            );
            requeued += self.db.run(async |tx| Ok::<_, Error>(execute(tx, schema, revive).await?)).await?;
            let others = format!("SELECT id FROM atomically_job WHERE {dead} ORDER BY id");
            for id in self.read_integers(others).await? {
                match self.requeue(id).await {
                    Ok(was_dead) => requeued += u64::from(was_dead),
                    Err(error) if error.kind() == ErrorKind::Constraint => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(requeued)
    }

    /// Pauses the queue: no process claims its jobs any more until it is [resumed](Self::resume). This is
    /// stored in the database.
    ///
    /// Jobs that are claimed continue, and jobs can be enqueued. A claim that has begun may still return
    /// jobs, and jobs that a worker has [claimed ahead](super::Worker#claims) still start, unless they are
    /// released. Returns whether the queue was running.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn pause(&self) -> Result<bool, Error> {
        let insert = &format!(
            "INSERT INTO atomically_job_pause (queue, paused_at) SELECT '{0}', {1} FROM (SELECT 1) AS one \
             WHERE NOT EXISTS (SELECT 1 FROM atomically_job_pause WHERE queue = '{0}')",
            self.name,
            QueueSql::of::<DB>().now
        );
        let paused =
            self.db.run(async |tx| Ok::<_, Error>(execute(tx, self.schema(), insert).await? > 0)).await;
        match paused {
            // Another process has paused it at the same time.
            Err(error) if error.kind() == ErrorKind::Constraint => Ok(false),
            paused => paused,
        }
    }

    /// Resumes a [paused](Self::pause) queue: workers claim jobs again at their next poll. Returns whether
    /// the queue was paused.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn resume(&self) -> Result<bool, Error> {
        let delete = &format!("DELETE FROM atomically_job_pause WHERE queue = '{}'", self.name);
        self.db.run(async |tx| Ok(execute(tx, self.schema(), delete).await? > 0)).await
    }

    /// Returns whether the queue is [paused](Self::pause).
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn is_paused(&self) -> Result<bool, Error> {
        let count = format!("SELECT COUNT(*) FROM atomically_job_pause WHERE queue = '{}'", self.name);
        Ok(self.read_integers(count).await?.first().is_some_and(|paused| *paused > 0))
    }
}
