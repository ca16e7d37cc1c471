//! The kinds of failures.

use std::fmt;

/// The kind of a [`Failure`](super::Failure), the same on every database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The database could not serialize this transaction with the concurrent ones (PostgreSQL 40001,
    /// MariaDB 1020, SQLite 517).
    SerializationFailure,
    /// The database rolled this transaction back to resolve a deadlock.
    Deadlock,
    /// A row was not found with the expected version: another transaction has changed it since it was read.
    StaleVersion,
    /// SQLite: another connection was writing for longer than `busy_timeout`.
    Busy,
    /// A lock was not granted within the lock timeout.
    LockTimeout,
    /// A lock that was requested with `NOWAIT` was held by another transaction.
    LockNotAvailable,
    /// The server cancelled the statement, because it ran for too long or on request.
    StatementTimeout,
    /// A constraint was violated; [`Failure::constraint`](super::Failure::constraint) describes it.
    Constraint,
    /// The connection was lost while no COMMIT was in flight, so nothing was stored.
    ConnectionLost,
    /// The connection was lost, or the deadline passed, while COMMIT was in flight; its outcome is unknown.
    CommitUnknown,
    /// No connection was available, or the server is starting, shutting down or out of a resource.
    Unavailable,
    /// Too many units were waiting for the same key in this process. Nothing was sent to the database.
    Overloaded,
    /// The server or the transaction is read-only: after a failover, or as requested.
    ReadOnly,
    /// The transaction had ended before its commit: by an earlier error, a statement whose future was
    /// dropped, or an implicit commit.
    Aborted,
    /// Another worker took over a claim: its fencing token is no longer the newest.
    StaleClaim,
    /// The database does not support the requested feature.
    Unsupported,
    /// An argument of the caller is invalid, so the statement with it was not sent.
    InvalidInput,
    /// Any other error of the database.
    Other,
}

impl FailureKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 18] = [
        Self::SerializationFailure,
        Self::Deadlock,
        Self::StaleVersion,
        Self::Busy,
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
        Self::Other,
    ];

    /// Returns whether such a failure is caused by concurrent transactions on the same rows.
    #[must_use]
    pub const fn is_conflict(self) -> bool {
        matches!(
            self,
            Self::SerializationFailure | Self::Deadlock | Self::StaleVersion | Self::Busy | Self::LockTimeout
        )
    }

    /// Returns whether such a failure makes its session unusable: the session is lost, or its server is
    /// shutting down or has changed its role.
    pub(super) const fn ends_session(self) -> bool {
        self.may_hide_commit() || matches!(self, Self::ReadOnly)
    }

    /// Returns whether a commit that fails like this may have been stored.
    pub(crate) const fn may_hide_commit(self) -> bool {
        matches!(self, Self::ConnectionLost | Self::CommitUnknown | Self::Unavailable)
    }

    /// Returns the name of the variant in snake case, for use as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SerializationFailure => "serialization_failure",
            Self::Deadlock => "deadlock",
            Self::StaleVersion => "stale_version",
            Self::Busy => "busy",
            Self::LockTimeout => "lock_timeout",
            Self::LockNotAvailable => "lock_not_available",
            Self::StatementTimeout => "statement_timeout",
            Self::Constraint => "constraint",
            Self::ConnectionLost => "connection_lost",
            Self::CommitUnknown => "commit_unknown",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::ReadOnly => "read_only",
            Self::Aborted => "aborted",
            Self::StaleClaim => "stale_claim",
            Self::Unsupported => "unsupported",
            Self::InvalidInput => "invalid_input",
            Self::Other => "other",
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::SerializationFailure => "serialization failure",
            Self::Deadlock => "deadlock",
            Self::StaleVersion => "stale version",
            Self::Busy => "database busy",
            Self::LockTimeout => "lock timeout",
            Self::LockNotAvailable => "lock not available",
            Self::StatementTimeout => "statement timeout",
            Self::Constraint => "constraint violation",
            Self::ConnectionLost => "connection lost",
            Self::CommitUnknown => "outcome of the commit unknown",
            Self::Unavailable => "database unavailable",
            Self::Overloaded => "overloaded",
            Self::ReadOnly => "read only",
            Self::Aborted => "transaction aborted",
            Self::StaleClaim => "stale claim",
            Self::Unsupported => "not supported",
            Self::InvalidInput => "invalid input",
            Self::Other => "database error",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}
