use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Runs units at the isolation level SERIALIZABLE, and retries those that the database rolls back to keep
/// them serializable.
///
/// # When to use
///
/// Use it if an invariant spans rows that no single lock or version covers: at least one doctor on call, no
/// overlapping bookings, a sum over a table. Write the unit as if it ran alone.
///
/// # What it costs
///
/// It costs additional attempts. PostgreSQL may report a conflict at any statement and at the commit. MariaDB
/// locks the rows that are read, so two units that read and then write the same row deadlock, and one of them
/// is retried.
///
/// # What it does not do
///
/// It protects an invariant only if *all* transactions that affect it are serializable. On a Galera cluster,
/// it protects only transactions on the same node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Serializable;

impl Serializable {
    /// Binds the strategy to a pool.
    #[must_use]
    pub fn on<DB: Backend>(self, pool: &Pool<DB>) -> PoolTransactor<DB, Self> {
        PoolTransactor::new(self, pool)
    }
}

impl Strategy for Serializable {
    fn name(&self) -> &'static str {
        "serializable"
    }

    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::Serializable)
    }
}
