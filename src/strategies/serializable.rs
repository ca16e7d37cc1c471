use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Lets the database see to it that the outcome is that of some serial order, and runs again what does not fit in.
///
/// # When to use
///
/// The rule that must hold spans rows which no lock or version names: at least one on call, no overlapping bookings, a
/// sum over a table. Write the unit as if it ran alone.
///
/// # What it costs
///
/// Attempts: PostgreSQL reports a conflict at any statement or at the commit; MariaDB locks what is read, so two units
/// that read and then write the same row deadlock, and one of them runs again.
///
/// # What it does not do
///
/// It holds among transactions that are *all* serializable. On a Galera cluster it holds within one node only.
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
