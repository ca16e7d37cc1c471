//! Makes leases expire early, for tests.

use std::time::Duration;

use super::claim::stale;
use super::sql::{QueueSql, execute, fetch_integers};
use super::{Claim, Queue};
use crate::backend::Backend;
use crate::error::Error;
use crate::row_lock::RowLock;
use crate::transactor::{Options, TransactorExt as _};

/// The options of a transaction that does not wait for locks.
fn no_wait() -> Options {
    Options::new().attempts(1).lock_timeout(Duration::from_millis(1))
}

impl<DB: Backend> Claim<DB> {
    /// Makes the lease expire now.
    pub(crate) async fn lapse(&self) -> Result<(), Error> {
        self.queue().lapse(self.id(), self.token()).await
    }
}

impl<DB: Backend> Queue<DB> {
    /// Returns the maximum number of connections of the pool.
    pub(crate) fn max_connections(&self) -> u32 {
        self.db.pool().options().get_max_connections()
    }

    /// Makes the lease of a claim expire now.
    pub(crate) async fn lapse(&self, id: i64, token: i64) -> Result<(), Error> {
        self.end_lease(id, token, None, Options::new()).await
    }

    /// Makes the lease of a claim expire now. Fails instead of waiting if a transaction has locked the job.
    pub(crate) async fn lapse_at_once(&self, id: i64, token: i64) -> Result<(), Error> {
        // InnoDB's lock timeout has a resolution of seconds, so NOWAIT is used too if there is one.
        self.end_lease(id, token, Some(RowLock::UPDATE.nowait()), no_wait()).await
    }

    /// Claims jobs. Fails instead of waiting if a transaction has locked the database.
    pub(crate) async fn claim_at_once(&self, limit: usize) -> Result<Vec<Claim<DB>>, Error> {
        let claims = self.clone().options(no_wait()).claim(limit).await?;
        Ok(claims.into_iter().map(|claim| claim.with_queue(self)).collect())
    }

    async fn end_lease(
        &self,
        id: i64,
        token: i64,
        lock: Option<RowLock>,
        options: Options,
    ) -> Result<(), Error> {
        let job = format!("atomically_job WHERE id = {id} AND token = {token}");
        let lease = format!("atomically_job_lease WHERE job_id = {id} AND token = {token}");
        let (select_job, select_lease) =
            (&format!("SELECT id FROM {job}"), &format!("SELECT job_id FROM {lease}"));
        let make_due = &format!(
            "UPDATE atomically_job SET due_at = {} - 1 WHERE id = {id} AND token = {token}",
            QueueSql::of::<DB>().now
        );
        let end_lease = &format!("DELETE FROM {lease}");
        let (db, schema) = (self.db.clone().options(options), self.schema());
        db.run(async |tx| {
            let clause = lock.and_then(|lock| DB::lock_clause(&tx.engine(), lock).ok().flatten());
            let clause = clause.unwrap_or_default();
            let is_held = !fetch_integers(tx, schema, format!("{select_job} {clause}")).await?.is_empty();
            fetch_integers(tx, schema, format!("{select_lease} {clause}")).await?;
            if !is_held || execute(tx, schema, make_due).await? == 0 {
                return Err(tx.stale_claim(stale(self.name(), id, token)));
            }
            execute(tx, schema, end_lease).await?;
            Ok(())
        })
        .await
    }
}
