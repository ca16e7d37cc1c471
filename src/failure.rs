//! Classified failures of the database.
//!
//! A [`Failure`] passes through all layers: a backend creates it from a driver's error, a transaction
//! remembers it, a strategy judges it, and an [`Error`](crate::Error) reports it.

use std::fmt;

use crate::deadlock::DeadlockReport;

/// A classified failure of a transaction, with the database's code and message.
///
/// Contains only text and plain data, and no values of the program. The driver's own error is returned to
/// the unit whose statement caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    retryable: bool,
    definite: bool,
    spoils_session: bool,
    code: Option<String>,
    message: String,
    constraint: Option<Box<Constraint>>,
    deadlock: Option<Box<DeadlockReport>>,
}

/// The class of a [`Failure`], the same on every database.
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
    /// A constraint was violated; [`Failure::constraint`] describes it.
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
    /// A claim was taken over by another worker: its fencing token is no longer the newest.
    StaleClaim,
    /// The database does not support the requested feature.
    Unsupported,
    /// Any other error of the database.
    Other,
}

impl FailureKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 17] = [
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
    const fn ends_session(self) -> bool {
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
            Self::Other => "database error",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl Failure {
    /// Creates a failure that is not retryable and that, in answer to a COMMIT, proves that nothing was
    /// stored. The methods below change that.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            retryable: false,
            definite: true,
            spoils_session: false,
            code: None,
            message: message.into(),
            constraint: None,
            deadlock: None,
        }
    }

    /// The failure of a feature that the database does not have.
    pub(crate) fn unsupported(database: &str, what: &str) -> Self {
        Self::new(FailureKind::Unsupported, format!("{database} has no {what}"))
    }

    pub(crate) fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Appends a note to the database's message.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(note);
        self
    }

    /// Prepends what was attempted to the database's message.
    pub(crate) fn in_context(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    pub(crate) fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    pub(crate) fn definite(mut self, definite: bool) -> Self {
        self.definite = definite;
        self
    }

    /// Marks a failure after which the session must not be used again although its kind does not imply
    /// that.
    pub(crate) fn spoiling_session(mut self, spoils: bool) -> Self {
        self.spoils_session = spoils;
        self
    }

    pub(crate) fn with_constraint(mut self, constraint: Option<Constraint>) -> Self {
        self.constraint = constraint.map(Box::new);
        self
    }

    pub(crate) fn with_deadlock(mut self, deadlock: Option<DeadlockReport>) -> Self {
        self.deadlock = deadlock.map(Box::new);
        self
    }

    /// Turns this failure into one of a commit whose outcome is unknown.
    pub(crate) fn into_commit_unknown(self) -> Self {
        Self { kind: FailureKind::CommitUnknown, retryable: false, definite: false, ..self }
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns whether the unit may succeed if it is run again in a new transaction.
    ///
    /// This is a property of the failure; the strategy decides whether to retry. If the session is the
    /// cause, its connection is closed so that the next attempt runs on another one: after a migration that
    /// invalidates prepared statements ("cached plan must not change result type"), or on a server that has
    /// become read-only.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Returns whether this failure, in answer to a COMMIT, proves that nothing was stored.
    pub(crate) const fn is_definite(&self) -> bool {
        self.definite
    }

    /// Returns whether the session is unusable after this failure, so that its connection is to be closed.
    pub(crate) const fn ends_session(&self) -> bool {
        self.spoils_session || self.kind.ends_session()
    }

    /// Returns whether a statement that commits itself may have been stored although it failed like this.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        !self.definite && self.kind.may_hide_commit()
    }

    /// Returns whether a unique or primary key was violated.
    pub(crate) fn is_unique_violation(&self) -> bool {
        self.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
    }

    /// Returns the database's code: an SQLSTATE on PostgreSQL, an error number on MySQL and MariaDB, an
    /// extended result code on SQLite. `None` if the failure does not come from a server.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Returns the database's message, with `…` in place of the values that it quotes.
    ///
    /// Names of constraints, tables and columns are shown. The message of a trigger or a function (`RAISE`,
    /// `SIGNAL`) is left out entirely, because values in it cannot be recognized; the [driver's
    /// error](crate::Error::driver_error) contains it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the violated constraint, for [`FailureKind::Constraint`].
    #[must_use]
    pub fn constraint(&self) -> Option<&Constraint> {
        self.constraint.as_deref()
    }

    /// Returns which transactions waited for which, for [`FailureKind::Deadlock`], as far as the server
    /// reports it.
    #[must_use]
    pub fn deadlock(&self) -> Option<&DeadlockReport> {
        self.deadlock.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} ({code}): {}", self.kind, self.message),
            None => write!(f, "{}: {}", self.kind, self.message),
        }
    }
}

/// Returns the text of an error followed by those of its sources: `sending the receipt: connection
/// refused`. A source whose text is contained already is left out.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A violated constraint: its kind and, as far as the database reports them, its name, table and columns.
///
/// # What each database reports
///
/// | | name | table | columns |
/// |---|---|---|---|
/// | PostgreSQL | all but not-null | all | unique, foreign key, not-null |
/// | MySQL, MariaDB | unique, foreign key, check | foreign key, check (MariaDB) | foreign key, not-null |
/// | SQLite | check | unique, not-null | unique, not-null |
///
/// On MySQL, MariaDB and SQLite these are parsed from the text of the message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Constraint {
    /// The kind of the constraint.
    pub kind: ConstraintKind,
    /// The name of the constraint, or of the index that enforces it.
    pub name: Option<String>,
    /// The table of the constraint.
    pub table: Option<String>,
    /// The columns of the constraint, in the order in which the database names them.
    pub columns: Vec<String>,
}

impl Constraint {
    pub(crate) const fn new(kind: ConstraintKind) -> Self {
        Self { kind, name: None, table: None, columns: Vec::new() }
    }
}

/// The kind of a violated constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConstraintKind {
    /// A primary key or unique constraint: a row with this key exists already.
    Unique,
    /// A foreign key: the parent row does not exist, or rows that refer to it still do.
    ForeignKey,
    /// A NOT NULL column without a value.
    NotNull,
    /// A `CHECK` expression, a strict column type, or a view's check option.
    Check,
    /// An exclusion constraint of PostgreSQL.
    Exclusion,
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Self>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Layer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn appends_each_cause_once() {
        let refused = || Some(Box::new(Layer("connection refused", None)));
        let sending = Layer("sending the receipt", refused());
        assert_eq!(with_causes(&sending), "sending the receipt: connection refused");
        let quoting = Layer("sending: connection refused", refused());
        assert_eq!(with_causes(&quoting), "sending: connection refused");
    }
}
