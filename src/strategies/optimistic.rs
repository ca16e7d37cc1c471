use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Reads without locks, and checks when writing that no other transaction has changed the row in between.
///
/// The check is a version column in the `WHERE` of the update, followed by
/// [`Tx::expect_one`](crate::Tx::expect_one): if no row was affected, another transaction has changed the row
/// first, and the unit is retried.
///
/// Use a `NOT NULL` integer as the version, which each update increments. A timestamp loses an update if two
/// of them get the same one, which is common under load if it has whole seconds: see
/// [`expect_one`](crate::Tx::expect_one).
///
/// # When to use
///
/// Use it if conflicts are rare, or if units take long between reading and writing. Under high contention
/// most attempts are wasted.
///
/// # What it does not do
///
/// It protects only the rows whose version is checked. A row that was only read may have changed: check its
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
