//! The kinds of errors.

use crate::failure::{Failure, FailureKind};

/// How a run ended without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// All attempts failed with retryable failures.
    Exhausted,
    /// The deadline passed.
    DeadlineExceeded,
    /// The [`RetryBudget`](crate::RetryBudget) had no retry left.
    BudgetSpent,
    /// The transaction conflicted with another one, and the strategy does not retry it.
    Conflict,
    /// A lock was not granted in time, and the strategy does not retry the unit.
    LockTimeout,
    /// A lock that was requested with `NOWAIT` was held by another transaction.
    LockNotAvailable,
    /// The server cancelled a statement that ran for too long.
    StatementTimeout,
    /// A constraint was violated.
    Constraint,
    /// The connection was lost before COMMIT was sent.
    ConnectionLost,
    /// COMMIT was sent and its outcome is unknown: the unit may be stored or not. Never retry such a unit
    /// blindly.
    CommitUnknown,
    /// No connection was available, or the server is starting, shutting down or out of a resource.
    Unavailable,
    /// Too many units were waiting in this process. Nothing was sent to the database.
    Overloaded,
    /// The server is read-only.
    ReadOnly,
    /// The unit misused its transaction, or something ended the transaction unseen; the message names the
    /// reason.
    Aborted,
    /// Another worker took over the claim, or another holder the lease, and the transaction was rolled back.
    /// Drop the work: it must not run again under this claim or lease.
    StaleClaim,
    /// The database does not support the requested feature. Nothing was run.
    Unsupported,
    /// An argument is invalid: the name of a queue, a key, a setting, or a value that cannot be encoded. The
    /// message names it. The statement with that argument was not sent.
    InvalidInput,
    /// A query returned no row where one is required
    /// ([`sqlx::Error::RowNotFound`](sqlx::Error::RowNotFound)).
    RowNotFound,
    /// A stored value could not be decoded: a column, the payload of a job, a stored response.
    Decode,
    /// A table of this crate does not exist. The message says which one, and how to create it.
    MissingTable,
    /// Any other error of the database or the driver.
    Database,
}

impl ErrorKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 21] = [
        Self::Exhausted,
        Self::DeadlineExceeded,
        Self::BudgetSpent,
        Self::Conflict,
        Self::LockTimeout,
        Self::LockNotAvailable,
        Self::StatementTimeout,
        Self::Constraint,
        Self::ConnectionLost,
        Self::CommitUnknown,
        Self::Unavailable,
        Self::Overloaded,
        Self::ReadOnly,
        Self::Aborted,
        Self::StaleClaim,
        Self::Unsupported,
        Self::InvalidInput,
        Self::RowNotFound,
        Self::Decode,
        Self::MissingTable,
        Self::Database,
    ];

    /// Returns the kind of an error that this failure causes.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        if failure.lacks_own_table() { Self::MissingTable } else { failure.kind().into() }
    }

    /// Returns the kind of a driver's error that is not a failure of the database.
    pub(super) const fn of_driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::RowNotFound => Self::RowNotFound,
            sqlx::Error::Encode(_) => Self::InvalidInput,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Self::Decode,
            _ => Self::Database,
        }
    }
}

impl From<FailureKind> for ErrorKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::SerializationFailure
            | FailureKind::Deadlock
            | FailureKind::StaleVersion
            | FailureKind::Busy => Self::Conflict,
            FailureKind::LockTimeout => Self::LockTimeout,
            FailureKind::LockNotAvailable => Self::LockNotAvailable,
            FailureKind::StatementTimeout => Self::StatementTimeout,
            FailureKind::Constraint => Self::Constraint,
            FailureKind::ConnectionLost => Self::ConnectionLost,
            FailureKind::CommitUnknown => Self::CommitUnknown,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::Overloaded => Self::Overloaded,
            FailureKind::ReadOnly => Self::ReadOnly,
            FailureKind::Aborted => Self::Aborted,
            FailureKind::StaleClaim => Self::StaleClaim,
            FailureKind::Unsupported => Self::Unsupported,
            FailureKind::InvalidInput => Self::InvalidInput,
            FailureKind::Other => Self::Database,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_in_their_order() {
        assert!(ErrorKind::ALL.into_iter().map(|kind| kind as usize).eq(0..ErrorKind::ALL.len()));
        assert_eq!(ErrorKind::ALL.last(), Some(&ErrorKind::Database));
    }
}
