//! Summaries of runs.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// The result of a run and the time that it took.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Summary {
    /// How the run ended.
    pub outcome: RunOutcome,
    /// How many attempts were started.
    pub attempts: u32,
    /// How long the whole run took.
    pub elapsed: Duration,
    /// What the time was spent on, over all attempts.
    pub times: Times,
}

/// How a run of a unit of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunOutcome {
    /// The unit is committed.
    Committed,
    /// The unit returned an error of its own and was rolled back. A constraint violation counts as such an
    /// error. So does an idempotency key that is in use, or was used for a different request.
    RolledBack,
    /// The unit was not run: the stored response of an earlier request with its idempotency key was
    /// returned.
    Replayed,
    /// All attempts failed with retryable failures.
    Exhausted,
    /// The deadline passed.
    DeadlineExceeded,
    /// The [`RetryBudget`](crate::RetryBudget) had no retry left.
    BudgetSpent,
    /// The outcome of the commit is unknown.
    CommitUnknown,
    /// Too many units were waiting at the [`Gate`](crate::Gate).
    Overloaded,
    /// A database failure that is not retried ended the run, whatever error the unit returned.
    Failed,
    /// The run was dropped before it ended, or the unit panicked.
    Dropped,
}

impl RunOutcome {
    /// All outcomes, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Committed,
        Self::RolledBack,
        Self::Replayed,
        Self::Exhausted,
        Self::DeadlineExceeded,
        Self::BudgetSpent,
        Self::CommitUnknown,
        Self::Overloaded,
        Self::Failed,
        Self::Dropped,
    ];

    /// Returns the outcome as a label: `committed`, `rolled_back`, `replayed`, `exhausted`,
    /// `deadline_exceeded`, `budget_spent`, `commit_unknown`, `overloaded`, `failed` or `dropped`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
            Self::Replayed => "replayed",
            Self::Exhausted => "exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::BudgetSpent => "budget_spent",
            Self::CommitUnknown => "commit_unknown",
            Self::Overloaded => "overloaded",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl From<&Error> for RunOutcome {
    fn from(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Exhausted => Self::Exhausted,
            ErrorKind::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorKind::BudgetSpent => Self::BudgetSpent,
            ErrorKind::CommitUnknown => Self::CommitUnknown,
            ErrorKind::Overloaded => Self::Overloaded,
            _ => Self::Failed,
        }
    }
}

/// What a run spent its time on. The rest of its time was spent by the unit itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// Waiting at the [`Gate`](crate::Gate).
    pub gate: Duration,
    /// Acquiring connections from the pool.
    pub pool: Duration,
    /// In statements that acquire locks: locking reads, writes, `lock_rows` and advisory locks. This is an
    /// upper bound of the time spent waiting for locks, and usually close to it, because such statements take
    /// little time unless they wait.
    pub locking: Duration,
    /// In all statements of the unit, including those that acquire locks.
    pub statements: Duration,
    /// With the transaction open but no statement running.
    pub idle: Duration,
    /// Opening, committing and rolling back transactions.
    pub control: Duration,
    /// Between attempts.
    pub backoff: Duration,
}
