//! What a strategy decides, as plain data: how an attempt opens, and what a failure means.

use std::fmt::Debug;

use crate::failure::{Failure, FailureKind};
use crate::isolation::Isolation;
use crate::lock::RowLock;

/// How one attempt is to be opened and how its rows are guarded.
///
/// ```
/// use atomically::{Isolation, Plan, RowLock};
///
/// let plan = Plan::new(Isolation::ReadCommitted).locking(RowLock::NoKeyUpdate);
/// assert_eq!(plan.row_lock, Some(RowLock::NoKeyUpdate));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The isolation level of the transaction.
    pub isolation: Isolation,
    /// The lock that [`Tx::for_update`](crate::Tx::for_update) takes; `None` leaves the statement alone.
    ///
    /// SQLite has no row locks: there, `Some` opens the transaction with `BEGIN IMMEDIATE`, so that it waits for other
    /// writers before it has read anything, and `None` with a deferred `BEGIN`.
    pub row_lock: Option<RowLock>,
}

impl Plan {
    /// A transaction at this level that takes no locks but those its statements take by themselves.
    #[must_use]
    pub const fn new(isolation: Isolation) -> Self {
        Self { isolation, row_lock: None }
    }

    /// The same, with rows that are read for update locked as they are read.
    #[must_use]
    pub const fn locking(mut self, lock: RowLock) -> Self {
        self.row_lock = Some(lock);
        self
    }
}

/// What a strategy makes of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Run the whole unit of work again in a new transaction, after a delay, while attempts and time last.
    RunAgain,
    /// Tell the caller.
    GiveUp,
}

/// Decides how units of work run: how each attempt opens, and which failures are worth another one.
///
/// A strategy neither sleeps nor touches a connection, so it can be tested without either. It never names a database.
/// Bind one to a pool with [`PoolTransactor::new`](crate::PoolTransactor::new).
///
/// ```
/// use atomically::{Failure, FailureKind, Isolation, Plan, RowLock, Strategy, Verdict};
///
/// /// Optimistic twice, then with a lock.
/// #[derive(Debug, Clone, Copy)]
/// struct LockOnThird;
///
/// impl Strategy for LockOnThird {
///     fn plan(&self, attempt: u32) -> Plan {
///         let plan = Plan::new(Isolation::ReadCommitted);
///         if attempt < 3 { plan } else { plan.locking(RowLock::NoKeyUpdate) }
///     }
/// }
///
/// assert_eq!(LockOnThird.plan(1).row_lock, None);
/// assert_eq!(LockOnThird.plan(3).row_lock, Some(RowLock::NoKeyUpdate));
/// ```
pub trait Strategy: Debug + Send + Sync + 'static {
    /// How the attempt with this number is to be opened. Attempts count from 1.
    fn plan(&self, attempt: u32) -> Plan;

    /// What is to be made of a failure.
    ///
    /// # Default
    ///
    /// Run again after every failure that is [retryable](Failure::is_retryable), but for
    /// [`LockNotAvailable`](FailureKind::LockNotAvailable): who asks for `NOWAIT` wants to hear of it at once.
    fn verdict(&self, failure: &Failure) -> Verdict {
        if failure.is_retryable() && failure.kind() != FailureKind::LockNotAvailable {
            Verdict::RunAgain
        } else {
            Verdict::GiveUp
        }
    }
}

// The loop takes strategies as `&dyn Strategy`.
#[cfg(test)]
fn _object_safe(_: &dyn Strategy) {}
