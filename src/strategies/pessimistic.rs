use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Locks rows as they are read, so that nobody changes them before this transaction does.
///
/// Read with [`Tx::for_update`](crate::Tx::for_update) what you are going to change: others that read it the same way
/// wait in line, plain reads go on. SQLite has no row locks; there the whole unit waits its turn before it starts.
///
/// # When to use
///
/// Many units want the same rows, and each is short. A unit almost always commits on its first attempt. What it costs
/// is waiting: whoever holds a row and thinks makes everybody think.
///
/// # What it does not do
///
/// It guards the rows that were locked, not the ones that were read without, and not rows that do not exist yet.
/// Invariants over many rows are [`Serializable`](crate::Serializable)'s.
///
/// # Why READ COMMITTED?
///
/// A row that was waited for must be read as it is now. Under a snapshot the lock is granted and the read is stale:
/// PostgreSQL refuses that with a serialization failure, MariaDB does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pessimistic {
    lock: RowLock,
}

impl Default for Pessimistic {
    fn default() -> Self {
        Self { lock: RowLock::NO_KEY_UPDATE }
    }
}

impl Pessimistic {
    /// With another lock than [`RowLock::NO_KEY_UPDATE`], for units that delete the rows or change their keys.
    #[must_use]
    pub const fn with(lock: RowLock) -> Self {
        Self { lock }
    }

    /// Binds the strategy to a pool.
    #[must_use]
    pub fn on<DB: Backend>(self, pool: &Pool<DB>) -> PoolTransactor<DB, Self> {
        PoolTransactor::new(self, pool)
    }
}

impl Strategy for Pessimistic {
    fn name(&self) -> &'static str {
        "pessimistic"
    }

    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted).locking(self.lock)
    }
}
