//! Many attempts: what runs units of work.

use async_trait::async_trait;

use crate::backend::Backend;
use crate::error::Error;
use crate::tx::Tx;

mod retry;
mod deadlock_line;
mod extension;
#[cfg(test)]
mod fleet;
mod lines;
mod lone;
mod operation;
mod options;
mod pool;
mod commit_check;
mod deadline;
mod attempt;
mod tries;

pub use extension::{TransactorExt, With};
pub use options::Options;
pub use pool::PoolTransactor;

/// What can be run as one transaction, again and again until it commits.
///
/// The contract between a transactor and a unit of work; users write async closures, from which
/// [`TransactorExt::run`] makes one.
#[async_trait]
pub trait Unit<DB: Backend>: Send {
    /// Runs the unit once, on a transaction of its own, and says what it wants to become of it.
    ///
    /// May be called several times; nothing of one call may show in the next.
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision;

    /// Whether an attempt finds out by itself what became of an earlier one whose commit went unanswered, and
    /// keeps one that is still at work from being stored: by a row with a unique key, which each attempt
    /// writes first.
    ///
    /// Such a unit is run again after an unanswered commit, and says [`Decision::AlreadyCommitted`] when it finds it
    /// stored.
    fn finds_its_commits(&self) -> bool {
        false
    }
}

/// What a unit of work wants to become of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Decision {
    /// The unit returned `Ok`.
    Commit,
    /// The unit returned an error of its own.
    RollBack,
    /// The unit has its answer: nothing of this attempt is stored, and there is no other one, even if a
    /// statement met a failure that would be worth it.
    Abandon,
    /// The unit found that an earlier attempt is stored, whose commit went unanswered: this one had nothing
    /// to do.
    AlreadyCommitted,
}

/// How a run ended that did what its unit wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Ended {
    /// The unit is stored.
    Committed,
    /// The unit's last attempt was rolled back, as the unit wished.
    RolledBack,
}

/// Runs units of work, each as one transaction, under a strategy.
///
/// This is the contract between transactors and the crate, object-safe so that an application can hold an
/// `Arc<dyn Transactor<DB>>` and choose the strategy at run time. Its users call [`TransactorExt::run`].
#[async_trait]
pub trait Transactor<DB: Backend>: Send + Sync {
    /// Runs the unit until it commits, ends with an error of its own, or may not be run again.
    ///
    /// What `options` ask for goes before what the transactor would do by itself.
    ///
    /// # Errors
    ///
    /// Why the unit did not commit, other than by its own decision.
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error>;
}

// Applications hold transactors as `Arc<dyn Transactor<DB>>`.
#[cfg(test)]
fn _object_safe<DB: Backend>(_: &dyn Transactor<DB>, _: &dyn Unit<DB>) {}
