//! A lease that is held.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Lease;
use super::holding::Holding;
use super::renewal::renew_until_lost;
use super::sql::LeaseSql;
use crate::backend::Backend;
use crate::error::Error;
use crate::events::LeaseEvent;
use crate::tx::Tx;

/// A lease that this process holds, and renews in the background after each third of its time.
///
/// # Dropping
///
/// Dropping it stops the renewal and releases the lease in a task of its own. If that does not succeed, or
/// the process is killed, the lease expires. Use [`release`](Self::release) to wait for the release.
#[must_use = "a lease is released when it is dropped"]
pub struct Held<DB: Backend> {
    holding: Arc<Holding<DB>>,
    renewal: JoinHandle<()>,
}

impl<DB: Backend> Held<DB> {
    /// Begins to renew a lease. `requested` is when it was requested from the database.
    pub(super) fn new(lease: &Lease<DB>, token: i64, requested: Instant) -> Self {
        let holding = Arc::new(Holding::new(lease, token, requested));
        holding.notify(LeaseEvent::Acquired { token });
        let renewal = tokio::spawn(renew_until_lost(holding.clone(), requested));
        Self { holding, renewal }
    }

    /// Returns the fencing token: greater than that of every earlier holder of this lease.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.holding.token
    }

    /// Returns the name of the lease.
    #[must_use]
    pub fn name(&self) -> &str {
        self.holding.lease.name()
    }

    /// Returns a future that completes when the lease is lost: it has a new holder, or could not be renewed
    /// in time. Stop what only the holder may do.
    ///
    /// If renewals fail, it completes when a tenth of the lease's time is left, by a monotonic clock of this
    /// process.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<DB> {
        let holding = self.holding.clone();
        async move { holding.lost().await }
    }

    /// Returns whether the lease is lost, as [`lost`](Self::lost) has it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.holding.is_lost()
    }

    /// Makes the commit of this transaction depend on still having the lease. Call it last: until the
    /// transaction ends, a successor has to wait. Call it outside of [savepoints](Tx::savepoint): one that is
    /// rolled back undoes what was checked in it.
    ///
    /// The row of the token is locked, in share mode, so that several transactions of the holder do not wait
    /// for each other, and renewals do not wait at all. On Galera, where a lock is unknown to other nodes,
    /// the row is changed instead, and transactions of the holder wait for each other.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): the lease is lost. The unit is rolled back and not run
    /// again, even if the closure discards the error. Otherwise, returns the database's error.
    pub async fn check_in(&self, tx: &mut Tx<DB>) -> Result<(), Error> {
        let (name, token) = (self.name(), self.token());
        if !self.is_lost() && LeaseSql::of::<DB>().pin(tx, self.holding.lease.terms(), token).await? {
            return Ok(());
        }
        Err(tx.stale_claim(format!(
            "the lease {name:?} with token {token} is lost: it has expired or was taken over"
        )))
    }

    /// Releases the lease, so that others can acquire it at once.
    ///
    /// # Errors
    ///
    /// Returns the database's error. The lease is no longer renewed and expires.
    pub async fn release(self) -> Result<(), Error> {
        self.renewal.abort();
        self.holding.release().await
    }
}

impl<DB: Backend> Drop for Held<DB> {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.holding.has_ended() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let holding = self.holding.clone();
            // If it fails, the lease expires.
            runtime.spawn(async move { holding.release().await.ok() });
        }
    }
}

impl<DB: Backend> fmt::Debug for Held<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("name", &self.name())
            .field("token", &self.token())
            .field("is_lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
