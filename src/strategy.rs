//! The contract between strategies and the retry loop, as plain data.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use crate::digest::digest;
use crate::failure::{Failure, FailureKind};
use crate::isolation::{Access, Begin, Isolation};
use crate::row_lock::RowLock;

/// How one attempt opens its transaction, and how it locks rows.
///
/// ```
/// use atomically::{Isolation, Plan, RowLock};
///
/// let plan = Plan::new(Isolation::ReadCommitted).locking(RowLock::NO_KEY_UPDATE);
/// assert_eq!(plan.row_lock, Some(RowLock::NO_KEY_UPDATE));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The isolation level of the transaction.
    pub isolation: Isolation,
    /// The lock that [`Tx::for_update`](crate::Tx::for_update) acquires. With `None`, `for_update` returns
    /// the statement unchanged.
    ///
    /// SQLite has no row locks: `Some` opens the transaction with `BEGIN IMMEDIATE`, so that it waits for
    /// other writers before it reads anything. `None` opens it with a deferred `BEGIN`.
    pub row_lock: Option<RowLock>,
    /// Whether the transaction may write.
    pub access: Access,
    /// PostgreSQL: whether a serializable read-only transaction waits for a snapshot on which it cannot fail.
    pub deferrable: bool,
    /// SQLite: when the locks are acquired, overriding what `row_lock` implies.
    pub begin: Option<Begin>,
    /// Whether the attempts of a run with a key queue at the [`Gate`](crate::Gate).
    pub gated: bool,
}

/// The time limits of a transaction; `None` means no limit.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The time that is left until the deadline.
    pub left: Option<Duration>,
    /// The limit for each wait for a lock.
    pub lock: Option<Duration>,
    /// The limit for each statement.
    pub statement: Option<Duration>,
    /// The limit for each pause between two statements.
    pub idle: Option<Duration>,
    /// The session's own limit for each wait for a lock.
    pub own_lock: OwnLockLimit,
}

/// What is known about a session's own lock timeout. `None` means that the session waits without a limit.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnLockLimit {
    /// Reported by another session of the pool, so it probably applies to this one too.
    Likely(Option<Duration>),
    /// Reported by this session since it left the pool. Only queries ran on it meanwhile, and none of them is
    /// assumed to call a function that changes the timeout, such as `set_config`.
    Known(Option<Duration>),
}

impl Default for OwnLockLimit {
    fn default() -> Self {
        Self::Likely(None)
    }
}

impl OwnLockLimit {
    pub(crate) const fn limit(self) -> Option<Duration> {
        match self {
            Self::Likely(limit) | Self::Known(limit) => limit,
        }
    }
}

impl Limits {
    /// Returns how long a statement may wait for a lock: its own limit, or the time left until the deadline
    /// if that is shorter.
    pub(crate) fn on_locks(&self) -> Option<Duration> {
        self.lock.into_iter().chain(self.left).min()
    }

    /// Returns the lock timeout that the limit of the statement implies. It is slightly shorter than that
    /// limit, so that a server that enforces both reports a lock timeout. `None` if the caller has set a
    /// shorter lock timeout, or if the statement has no limit.
    pub(crate) fn derived_on_locks(&self) -> Option<Duration> {
        let statement = self.on_statements()?;
        let is_derived = self.lock.is_none_or(|asked| asked >= statement);
        is_derived.then(|| just_below(statement))
    }

    /// Returns how long a statement may take: its own limit, or the time left until the deadline if that is
    /// shorter.
    pub(crate) fn on_statements(&self) -> Option<Duration> {
        self.statement.into_iter().chain(self.left).min()
    }
}

/// Returns a limit that expires slightly earlier than this one.
pub(crate) fn just_below(limit: Duration) -> Duration {
    limit - (limit / 16).min(Duration::from_millis(100))
}

impl Plan {
    /// Creates a plan for a read-write transaction at this level, without row locks. If the run has a key,
    /// its attempts queue at the gate.
    #[must_use]
    pub const fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            row_lock: None,
            access: Access::ReadWrite,
            deferrable: false,
            begin: None,
            gated: true,
        }
    }

    /// Returns this plan with `lock` for rows that are read with [`Tx::for_update`](crate::Tx::for_update).
    #[must_use]
    pub const fn locking(mut self, lock: RowLock) -> Self {
        self.row_lock = Some(lock);
        self
    }

    /// Returns this plan with or without queueing at the gate. The default is `true`.
    #[must_use]
    pub const fn gated(mut self, gated: bool) -> Self {
        self.gated = gated;
        self
    }
}

/// What a strategy knows about an attempt.
///
/// ```
/// use atomically::{Attempt, Optimistic, Strategy as _};
///
/// let late = Attempt::new(7).on_key(("event", 7));
/// assert!(Optimistic::default().plan(&late).gated);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The number of the attempt, the first being 1.
    pub number: u32,
    /// The run's key as a stable hash: the same key has the same hash in every process.
    pub key: Option<u64>,
    /// Whether other runs with the same key were at the gate when this attempt arrived. Always `false` in
    /// [`Strategy::plan`], which is called before the attempt enters the gate, and for attempts that do not
    /// queue there.
    pub queued: bool,
}

impl Attempt {
    /// Creates the attempt with this number, counted from 1, of a run without a key.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self { number, key: None, queued: false }
    }

    /// Returns this attempt with a key.
    #[must_use]
    pub fn on_key(mut self, key: impl Hash) -> Self {
        self.key = Some(digest(&key));
        self
    }
}

/// How to find out whether a commit that was never acknowledged was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolve {
    /// Looks up a row with a unique id that each attempt writes first. Reliable on every database, across
    /// crashes and failovers.
    Operation,
    /// PostgreSQL: looks up the status of the transaction id, without writing to a table.
    ///
    /// After a crash, PostgreSQL reassigns the ids of transactions that never reached the disk, so the status
    /// "committed" may belong to another transaction. The crate trusts that status only if the server has not
    /// restarted, recovered, written a checkpoint or failed over to a standby since the transaction began.
    /// Otherwise the commit stays unknown. This method also costs more, because the server reads its control
    /// file for each transaction.
    TransactionStatus,
}

/// Identifies a transaction, so that its commit can be looked up later.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitMarker {
    /// The row with this id in the table of operations.
    Operation {
        id: u128,
        /// The number of the attempt, if an earlier one may be stored with the same id: it then writes a
        /// second row, which tells it from the others.
        later_attempt: Option<u32>,
    },
    /// The id of the transaction.
    TransactionStatus,
}

impl CommitMarker {
    /// Returns the marker of a later attempt, which collides with this one.
    pub(crate) const fn of_later_attempt(self, number: u32) -> Self {
        match self {
            Self::Operation { id, .. } => Self::Operation { id, later_attempt: Some(number) },
            Self::TransactionStatus => Self::TransactionStatus,
        }
    }

    /// Returns the marker without a row for the attempt, for an engine on which no attempt can be stored
    /// after a later one has written its marker.
    pub(crate) const fn without_attempt(self) -> Self {
        match self {
            Self::Operation { id, .. } => Self::Operation { id, later_attempt: None },
            Self::TransactionStatus => Self::TransactionStatus,
        }
    }

    /// Returns the id of the row that a later attempt at an operation writes in addition.
    pub(crate) fn row_of_attempt(id: u128, number: u32) -> u128 {
        id.wrapping_add(u128::from(number))
    }
}

/// A strategy's decision about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Retry the whole unit in a new transaction, after a delay, as long as attempts and time are left.
    RunAgain,
    /// Return the failure to the caller.
    GiveUp,
}

/// Decides how each attempt opens its transaction, and which failures are retried.
///
/// A strategy performs no I/O and does not sleep, so it can be tested without a database. The same strategy
/// runs on every database. Bind one to a pool with [`PoolTransactor::new`](crate::PoolTransactor::new).
///
/// ```
/// use atomically::{Attempt, Isolation, Plan, RowLock, Strategy};
///
/// /// Optimistic twice, then with a lock.
/// #[derive(Debug, Clone, Copy)]
/// struct LockOnThird;
///
/// impl Strategy for LockOnThird {
///     fn plan(&self, attempt: &Attempt) -> Plan {
///         let plan = Plan::new(Isolation::ReadCommitted);
///         if attempt.number < 3 { plan } else { plan.locking(RowLock::NO_KEY_UPDATE) }
///     }
/// }
///
/// assert_eq!(LockOnThird.plan(&Attempt::new(1)).row_lock, None);
/// assert_eq!(LockOnThird.plan(&Attempt::new(3)).row_lock, Some(RowLock::NO_KEY_UPDATE));
/// ```
pub trait Strategy: Debug + Send + Sync + 'static {
    /// Returns the name of the strategy for logs and metrics.
    ///
    /// # Default
    ///
    /// The name of the type.
    ///
    /// ```
    /// # use atomically::{Attempt, Isolation, Optimistic, Plan, Strategy};
    /// #[derive(Debug)]
    /// struct LockLate;
    ///
    /// impl Strategy for LockLate {
    ///     fn plan(&self, _attempt: &Attempt) -> Plan {
    ///         Plan::new(Isolation::ReadCommitted)
    ///     }
    /// }
    ///
    /// assert_eq!(LockLate.name(), "LockLate");
    /// assert_eq!(Optimistic::default().name(), "optimistic");
    /// ```
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<Self>();
        path.rsplit("::").next().unwrap_or(path)
    }

    /// Returns the plan with which this attempt opens its transaction.
    fn plan(&self, attempt: &Attempt) -> Plan;

    /// Decides whether the unit is retried after this failure.
    ///
    /// # Default
    ///
    /// Retries every [retryable](Failure::is_retryable) failure except
    /// [`LockNotAvailable`](FailureKind::LockNotAvailable): a caller that uses `NOWAIT` wants the failure at
    /// once.
    fn verdict(&self, failure: &Failure) -> Verdict {
        if failure.is_retryable() && failure.kind() != FailureKind::LockNotAvailable {
            Verdict::RunAgain
        } else {
            Verdict::GiveUp
        }
    }

    /// Records how an attempt ended, for strategies that learn. The failure is `None` if the attempt
    /// succeeded.
    ///
    /// Called once for each attempt, whether or not its transaction could be opened, on the task of the run.
    /// Not called for an attempt that was dropped or cut short by the deadline.
    ///
    /// # Default
    ///
    /// Records nothing.
    fn record(&self, _attempt: &Attempt, _failure: Option<&Failure>) {}
}

// The retry loop takes strategies as `&dyn Strategy`.
#[cfg(test)]
fn _object_safe(_: &dyn Strategy) {}
