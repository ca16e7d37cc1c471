//! Leases that end early, for tests.

use std::time::Duration;

use super::{Claim, Queue, QueueBackend};
use crate::error::Error;
use crate::row_lock::RowLock;
use crate::transactor::{Options, TransactorExt as _};

/// A transaction that does not wait for locks.
fn at_once() -> Options {
    Options::new().attempts(1).lock_timeout(Duration::from_millis(1))
}

impl<DB: QueueBackend> Claim<DB> {
    /// Ends the lease now.
    pub(crate) async fn lapse(&self) -> Result<(), Error> {
        self.queue().lapse(self.id(), self.token()).await
    }
}

impl<DB: QueueBackend> Queue<DB> {
    /// The same queue, whose own transactions have these options as well.
    pub(crate) fn with_options(&self, options: Options) -> Self {
        let db = self.db.clone().options(options);
        Self { db, ..self.clone() }
    }

    /// How many connections its pool may have.
    pub(crate) fn max_connections(&self) -> u32 {
        self.db.pool().options().get_max_connections()
    }

    /// Ends the lease of a claim now.
    pub(crate) async fn lapse(&self, id: i64, token: i64) -> Result<(), Error> {
        self.end_lease(id, token, "", Options::new()).await
    }

    /// Ends the lease of a claim now. Fails instead of waiting where a transaction has locked the job.
    pub(crate) async fn lapse_at_once(&self, id: i64, token: i64) -> Result<(), Error> {
        // InnoDB counts waits for locks in seconds, so the clause says it as well where there is one.
        let clause = DB::lock_clause(RowLock::UPDATE.nowait()).unwrap_or_default();
        self.end_lease(id, token, &clause, at_once()).await
    }

    /// Claims jobs, and fails instead of waiting where a transaction has locked the database.
    pub(crate) async fn claim_at_once(&self, most: usize) -> Result<Vec<Claim<DB>>, Error> {
        let claims = self.with_options(at_once()).claim(most).await?;
        Ok(claims.into_iter().map(|claim| claim.held_through(self)).collect())
    }

    async fn end_lease(&self, id: i64, token: i64, clause: &str, options: Options) -> Result<(), Error> {
        let job = format!("atomically_job WHERE id = {id} AND token = {token}");
        let lease = format!("atomically_job_lease WHERE job_id = {id} AND token = {token}");
        let lock_job = &format!("SELECT id FROM {job} {clause}");
        let lock_lease = &format!("SELECT job_id FROM {lease} {clause}");
        let make_due = &format!(
            "UPDATE atomically_job SET due_at = {} - 1 WHERE id = {id} AND token = {token}",
            DB::NOW
        );
        let end_lease = &format!("DELETE FROM {lease}");
        let db = self.db.clone().options(options);
        db.run(async |tx| {
            let held = !DB::fetch_integers(tx, lock_job.clone(), Vec::new()).await?.is_empty();
            DB::fetch_integers(tx, lock_lease.clone(), Vec::new()).await?;
            if !held || DB::send(tx, make_due.clone(), Vec::new()).await? == 0 {
                let message = format!("job {id} is not held by the claim with the token {token} any more");
                return Err(tx.stale_claim(message));
            }
            DB::send(tx, end_lease.clone(), Vec::new()).await?;
            Ok(())
        })
        .await
    }
}
