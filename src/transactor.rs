//! Many attempts: the contract between transactors and units of work.

use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::error::Error;
use crate::tx::{RowRequest, Tx};

mod retry;
mod deadlock_queue;
mod extension;
mod failover;
#[cfg(test)]
mod fleet;
mod waiting;
mod atomicity;
mod on_rows;
mod operation;
mod options;
mod output;
mod pointers;
mod pool;
mod statement_unit;
mod commit_check;
mod deadline;
mod attempt;
mod retryable;
mod schema;

pub use extension::{TransactorExt, With};
pub use failover::Failover;
pub use on_rows::{OnRows, Reading, RowKeys};
pub use options::Options;
pub(crate) use output::UnitOutput;
pub use pool::PoolTransactor;

/// A unit of work, as a [`Transactor`] runs it: one transaction, retried until it commits.
///
/// Implement it only to build a feature of your own on transactors. Applications pass an async closure to
/// [`TransactorExt::run`].
#[async_trait]
pub trait Unit<DB: Backend>: Send {
    /// Runs the unit once, in a transaction of its own, and returns how the transaction is to end.
    ///
    /// May be called several times. No state of one call may leak into the next.
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision;

    /// Returns whether an attempt can detect, through a unique row that it writes first, that an earlier
    /// attempt committed.
    ///
    /// Such a unit is retried after a commit whose outcome is unknown, and returns
    /// [`Decision::AlreadyCommitted`] if it finds the row of the earlier attempt. Writing the row must also
    /// keep an earlier attempt that is still running from being stored.
    ///
    /// # Default
    ///
    /// `false`: an unknown commit ends the run.
    fn finds_its_commits(&self) -> bool {
        false
    }

    /// Called when the outcome of the COMMIT of this attempt is unknown. If a later attempt may run, it may
    /// find that this one is stored: see [`commit_was_found`](Self::commit_was_found).
    ///
    /// A unit that keeps what its attempts return keeps it apart from what later attempts return. A unit that
    /// wraps another one passes the call on.
    fn commit_is_unknown(&mut self, _attempt: u32) {}

    /// Called before the run ends as [committed](Ended::Committed) because this attempt, whose COMMIT was
    /// unknown, turned out to be stored.
    ///
    /// It need not be the last attempt: on a cluster, whose nodes do not wait for each other's locks, a later
    /// one may have run as far as its own COMMIT.
    fn commit_was_found(&mut self, _attempt: u32) {}

    /// Returns the rows that the round trip that opens the transaction is to lock and read.
    #[doc(hidden)]
    fn rows(&self) -> Option<Arc<dyn RowRequest<DB>>> {
        None
    }
}

/// How a unit of work wants its transaction to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Decision {
    /// Commit, unless a statement failed in a way that ends the transaction, even if the unit has ignored the
    /// error.
    Commit,
    /// Roll back because of an error. If the database caused it, the strategy decides whether to retry.
    RollBack,
    /// Roll back and end the run, even if a statement failed in a way that would be retried.
    Abandon,
    /// End the run as committed: an earlier attempt, whose commit was unknown, turned out to be stored, so
    /// this attempt had nothing to do.
    AlreadyCommitted,
}

/// How a run ended, if its unit decided the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Ended {
    /// The unit is stored.
    Committed,
    /// The unit's last attempt was rolled back, as the unit decided.
    RolledBack,
}

/// Runs units of work, each as one transaction, under a strategy.
///
/// Object-safe, so that an application can hold an `Arc<dyn Transactor<DB>>` and choose the strategy at run
/// time. References, boxes and `Arc`s of transactors are transactors too. Applications call
/// [`TransactorExt::run`], which is available on every transactor.
///
/// ```
/// use std::sync::Arc;
///
/// use atomically::{Error, Pessimistic, Transactor, TransactorExt as _, Tx};
/// use sqlx::{PgPool, Postgres};
///
/// struct Shop<T> {
///     db: T,
/// }
///
/// impl<T: Transactor<Postgres>> Shop<T> {
///     async fn sell(&self, id: i64) -> Result<(), Error> {
///         self.db
///             .run(async |tx: &mut Tx<_>| -> Result<_, Error> {
///                 sqlx::query("UPDATE product SET stock = stock - 1 WHERE id = $1")
///                     .bind(id)
///                     .execute(&mut *tx)
///                     .await?;
///                 Ok(())
///             })
///             .await
///     }
/// }
///
/// # fn example(pool: PgPool) {
/// let db: Arc<dyn Transactor<Postgres>> = Arc::new(Pessimistic::default().on(&pool));
/// let shop = Shop { db };
/// # }
/// ```
#[async_trait]
pub trait Transactor<DB: Backend>: Send + Sync {
    /// Runs the unit until it commits, ends with an error of its own, or must not be retried.
    ///
    /// `options` override the transactor's own.
    ///
    /// # Errors
    ///
    /// Returns why the unit did not commit, unless the unit itself decided to roll back.
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error>;
}

// Applications hold transactors as `Arc<dyn Transactor<DB>>`.
#[cfg(test)]
fn _object_safe<DB: Backend>(_: &dyn Transactor<DB>, _: &dyn Unit<DB>) {}
