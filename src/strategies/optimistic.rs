use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Reads without locks, and checks on writing that no other transaction has changed the row in between.
///
/// The check is a version column in the `WHERE` of the update, followed by
/// [`Tx::expect_one`](crate::Tx::expect_one): if no row was affected, another transaction was faster, and the
/// unit is retried.
///
/// The version is an integer that each update adds 1 to, `NOT NULL`. A timestamp loses updates where two of
/// them fall on the same one, which in whole seconds is the rule under load: see
/// [`expect_one`](crate::Tx::expect_one).
///
/// # When to use
///
/// Conflicts are rare, or units take long between reading and writing. Under high contention most attempts
/// are wasted.
///
/// # What it does not do
///
/// It protects the rows whose version is checked. A row that was only read may have changed: check its
/// version too, or use [`Serializable`](crate::Serializable).
///
/// # Why is every attempt a new transaction?
///
/// Under REPEATABLE READ, the default of MySQL and MariaDB, reading again in the same transaction returns the
/// same stale version every time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Optimistic;

impl Optimistic {
    /// Binds the strategy to a pool.
    #[must_use]
    pub fn on<DB: Backend>(self, pool: &Pool<DB>) -> PoolTransactor<DB, Self> {
        PoolTransactor::new(self, pool)
    }
}

impl Strategy for Optimistic {
    fn name(&self) -> &'static str {
        "optimistic"
    }

    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted)
    }
}
