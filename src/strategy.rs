//! What a strategy decides, as plain data: how an attempt opens, and what a failure means.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use crate::digest::digest;
use crate::failure::{Failure, FailureKind};
use crate::isolation::{Access, Begin, Isolation};
use crate::row_lock::RowLock;

/// How one attempt is to be opened and how its rows are guarded.
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
    /// The lock that [`Tx::for_update`](crate::Tx::for_update) takes; `None` leaves the statement alone.
    ///
    /// SQLite has no row locks: there, `Some` opens the transaction with `BEGIN IMMEDIATE`, so that it waits for other
    /// writers before it has read anything, and `None` with a deferred `BEGIN`.
    pub row_lock: Option<RowLock>,
    /// Whether it may write.
    pub access: Access,
    /// PostgreSQL: whether a serializable transaction that only reads waits for a moment from which it cannot fail.
    pub deferrable: bool,
    /// SQLite: when the locks are taken, where `row_lock` is not to decide.
    pub begin: Option<Begin>,
    /// Whether a run that names a key waits for its turn at the [`Gate`](crate::Gate), before it takes a connection.
    pub gated: bool,
}

/// The limits that a transaction is opened with.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// What is left of the deadline.
    pub left: Option<Duration>,
    /// For each wait for a lock.
    pub lock: Option<Duration>,
    /// For each statement.
    pub statement: Option<Duration>,
    /// For each pause between two statements.
    pub idle: Option<Duration>,
    /// For each wait for a lock, as far as is known what sessions of this pool have set for themselves.
    pub own_lock: Option<Duration>,
}

impl Limits {
    /// What a wait for a lock may take: the deadline is a limit to everything.
    pub(crate) fn on_locks(&self) -> Option<Duration> {
        self.lock.into_iter().chain(self.left).min()
    }

    /// What a wait for a lock may take where the deadline is the only limit: a little less than its
    /// statement, so that a server that limits both reports a lock timeout. `None` where the caller has asked
    /// for less.
    pub(crate) fn derived_on_locks(&self) -> Option<Duration> {
        let statement = self.on_statements()?;
        let is_derived = self.lock.is_none_or(|asked| asked >= statement);
        is_derived.then(|| just_below(statement))
    }

    /// What a statement may take.
    pub(crate) fn on_statements(&self) -> Option<Duration> {
        self.statement.into_iter().chain(self.left).min()
    }
}

/// A limit that is met before this one.
pub(crate) fn just_below(limit: Duration) -> Duration {
    limit - (limit / 16).min(Duration::from_millis(100))
}

impl Plan {
    /// A transaction at this level that takes no locks but those its statements take by themselves, and its turn at the
    /// gate where the run names a key.
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

    /// The same, with rows that are read for update locked as they are read.
    #[must_use]
    pub const fn locking(mut self, lock: RowLock) -> Self {
        self.row_lock = Some(lock);
        self
    }

    /// The same, with or without waiting at the gate.
    #[must_use]
    pub const fn gated(mut self, gated: bool) -> Self {
        self.gated = gated;
        self
    }
}

/// What a strategy is told of an attempt.
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
    /// What the run said that it contends for, as a number that is the same for the same key in every process.
    pub key: Option<u64>,
    /// Whether others were at the gate for the same key when this attempt came to it. Known afterwards; `false` where it
    /// did not go through the gate.
    pub queued: bool,
}

impl Attempt {
    /// The attempt with this number, of a run that names no key.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self { number, key: None, queued: false }
    }

    /// The same, of a run that names this key.
    #[must_use]
    pub fn on_key(mut self, key: impl Hash) -> Self {
        self.key = Some(digest(&key));
        self
    }
}

/// How it is found out what became of a commit whose answer never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolve {
    /// By a row with an id, which each attempt writes first. Right on every database, through crashes and failovers.
    Operation,
    /// PostgreSQL: by asking for the state of the transaction, which leaves no trace in a table.
    ///
    /// After a crash the number of a transaction that never reached the disk is handed out again, so "committed" may be
    /// somebody else's. It is believed only while the server has neither been started anew, nor recovered, nor written a
    /// checkpoint, nor handed over to a standby since the transaction began; else the commit stays unknown. It is also the
    /// dearer of the two: at each opening the server reads its control file.
    TransactionStatus,
}

/// What an attempt leaves behind to be found by.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// A row with this id.
    Operation(u128),
    /// Nothing but its number.
    TransactionStatus,
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
    /// What it is called in logs and metrics.
    ///
    /// # Default
    ///
    /// The name of its type.
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

    /// How this attempt is to be opened.
    fn plan(&self, attempt: &Attempt) -> Plan;

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

    /// Takes note of how an attempt went, for strategies that learn: `None` is one that ended as its unit wished.
    ///
    /// Called once for each attempt that was opened, or could not be, from whatever task it ran on. Not called for one
    /// that the deadline cut short or that was dropped.
    ///
    /// # Default
    ///
    /// Nothing is noted.
    fn observe(&self, _attempt: &Attempt, _failure: Option<&Failure>) {}
}

// The loop takes strategies as `&dyn Strategy`.
#[cfg(test)]
fn _object_safe(_: &dyn Strategy) {}
