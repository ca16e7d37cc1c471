//! Extends leases.

use tokio::time::Instant;

use super::claim::Claim;
use super::job::micros;
use super::resend::{SendAttempt, SendOutcome};
use super::sql::{QueueSql, fetch_integers};
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Options, TransactorExt as _};

impl<DB: Backend> Claim<DB> {
    /// Extends the lease: it expires after the [queue's lease](super::Queue::lease), counted from now.
    ///
    /// Retries until the lease has expired if the database cannot be reached.
    ///
    /// # Why in a table of its own?
    ///
    /// On PostgreSQL, a transaction under REPEATABLE READ or SERIALIZABLE fails if it updates a row that has
    /// changed since the transaction began. If extensions updated the job's row, each one would abort the
    /// transaction that it is meant to protect. So the lease of a claim is stored in the job's row, and
    /// extended leases in a table of their own. A job that ends within its first lease has no row there.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): stop working on the job. A lease that has expired can
    /// still be extended as long as no other worker has taken the job over. Otherwise the database's last
    /// error before the lease expired.
    pub async fn extend(&self) -> Result<(), Error> {
        let (id, token, sql) = (self.id(), self.token(), QueueSql::of::<DB>());
        let until = format!("{} + {}", sql.now, micros(self.queue().lease));
        let extend = &self.queue().schema().in_sql(format!(
            "INSERT INTO atomically_job_lease (job_id, token, until) \
             SELECT id, token, {until} FROM atomically_job WHERE id = {id} AND token = {token} {}",
            sql.replace_lease
        ));
        self.resend(|SendAttempt { db, .. }| {
            Box::pin(async move {
                let requested = Instant::now();
                if self.run_alone(&db, extend).await? == 0 {
                    return Err(self.stale_error());
                }
                self.lease().extended(requested);
                Ok(SendOutcome::Changed)
            })
        })
        .await
    }

    /// Whether a job that this claim no longer holds was completed or rescheduled by the claim's own handler,
    /// in a commit whose response was lost. While the lease is certain, no other worker can have done so.
    pub(super) async fn has_ended_by_itself(&self) -> bool {
        if !self.lease().is_certain() {
            return false;
        }
        // A job that was rescheduled has the next token, and is not claimed.
        let other = format!(
            "SELECT id FROM atomically_job WHERE id = {} AND (token <> {} OR claimed_at IS NOT NULL)",
            self.id(),
            self.token() + 1
        );
        let (db, schema) = (self.queue().db.with(Options::new().queries_only()), self.queue().schema());
        let found = db.run(async |tx| Ok::<_, Error>(fetch_integers(tx, schema, other).await?)).await;
        found.is_ok_and(|found| found.is_empty())
    }
}
