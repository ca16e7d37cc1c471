//! How a run ended, and what its time went into.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// How a run ended, and what its time went into.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Summary {
    /// How it ended.
    pub outcome: RunOutcome,
    /// How many attempts began.
    pub attempts: u32,
    /// How long it took in all.
    pub elapsed: Duration,
    /// What the time went into, all attempts together.
    pub times: Times,
}

/// How a run of a unit of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunOutcome {
    /// It is stored.
    Committed,
    /// It was rolled back, as the unit wished: it returned an error of its own, perhaps about a violated
    /// constraint.
    RolledBack,
    /// Every attempt that was granted met a failure worth another one.
    Exhausted,
    /// The deadline passed first.
    DeadlineExceeded,
    /// The next attempt was not in the [`RetryBudget`](crate::RetryBudget).
    BudgetSpent,
    /// Nobody knows whether it is stored.
    CommitUnknown,
    /// Too many were waiting at the [`Gate`](crate::Gate).
    Overloaded,
    /// The database was in the way, and another attempt would not have helped: whatever the unit made of it.
    Failed,
    /// Its future was dropped before it ended, or the unit panicked.
    Dropped,
}

impl RunOutcome {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Committed,
        Self::RolledBack,
        Self::Exhausted,
        Self::DeadlineExceeded,
        Self::BudgetSpent,
        Self::CommitUnknown,
        Self::Overloaded,
        Self::Failed,
        Self::Dropped,
    ];

    /// As a label: `committed`, `rolled_back`, `exhausted`, `deadline_exceeded`, `budget_spent`,
    /// `commit_unknown`, `overloaded`, `failed` or `dropped`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
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

/// What the time of a run went into. What is not listed is the program's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// In line at the [`Gate`](crate::Gate).
    pub gate: Duration,
    /// Until there was a connection.
    pub pool: Duration,
    /// In statements that ask for locks before they answer: locking reads, writes, `lock_rows`, advisory
    /// locks. They hardly take any time unless they wait, so this is what waiting for locks took, at most.
    pub locking: Duration,
    /// In all statements of the unit, those that lock among them.
    pub statements: Duration,
    /// Idle inside of an open transaction: the unit was busy with something that is not the database.
    pub idle: Duration,
    /// In opening, committing and rolling back.
    pub control: Duration,
    /// Between attempts.
    pub backoff: Duration,
}
