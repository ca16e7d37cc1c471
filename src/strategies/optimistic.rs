use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Takes no locks while it reads, and checks when it writes that nobody has written in between.
///
/// The check is a version column in the `WHERE` of the update, followed by
/// [`Tx::expect_one`](crate::Tx::expect_one): no row means that somebody was faster, and the unit runs again.
///
/// The version is an integer that each update adds 1 to, `NOT NULL`. A timestamp loses updates where two of
/// them fall on the same one, which in whole seconds is the rule under load: see
/// [`expect_one`](crate::Tx::expect_one).
///
/// # When to use
///
/// Conflicts are rare, or units think long between reading and writing. Under high contention most attempts are
/// thrown away.
///
/// # What it does not do
///
/// It guards the rows whose version is checked. A row that was only read may have changed; check its version too, or
/// use [`Serializable`](crate::Serializable).
///
/// # Why is every attempt a new transaction?
///
/// Reading again in the same one finds the same stale version for ever under REPEATABLE READ, which is MySQL's and
/// MariaDB's default.
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
