use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// Locks rows when they are read, so that no other transaction can change them first.
///
/// Read the rows that the unit will change with [`Tx::for_update`](crate::Tx::for_update): other units that
/// do the same wait, and plain reads do not. SQLite has no row locks; there the unit acquires the write lock
/// before it starts.
///
/// # When to use
///
/// Use it if many units change the same rows, and each unit is short. A unit almost always commits on its
/// first attempt. The cost is waiting: a unit that is slow while it holds a lock delays every unit behind it.
///
/// # What it does not do
///
/// It protects only the rows that were locked, not rows that were read without a lock or that do not exist
/// yet. For invariants over many rows, use [`Serializable`](crate::Serializable).
///
/// # Why READ COMMITTED?
///
/// After waiting for a lock, the unit must see the row as it is now. At a higher level, the lock is granted
/// but the read uses an older snapshot: PostgreSQL then fails with a serialization failure, and MariaDB
/// returns the stale row.
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
    /// Uses another lock than [`RowLock::NO_KEY_UPDATE`], for units that delete rows or change keys.
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
