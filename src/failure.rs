//! What the database said, classified.
//!
//! A [`Failure`] is the word that the layers share: a backend makes it out of a driver's error, a transaction
//! remembers it, a strategy judges it, an [`Error`](crate::Error) reports it.

use std::fmt;

use crate::deadlock::DeadlockReport;

/// What went wrong in a transaction, and whether running the whole unit of work again can help.
///
/// Holds text and plain data only, and no values of the program: the driver's own error went to the unit of
/// work that caused it.
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
    /// The database could not fit this transaction into a serial order with the others (PostgreSQL 40001,
    /// MariaDB 1020, SQLite 517).
    SerializationFailure,
    /// The database ended this transaction to break a cycle of transactions waiting for each other.
    Deadlock,
    /// A row that was expected once was not there: somebody changed its version since it was read.
    StaleVersion,
    /// SQLite: another connection is writing, and `busy_timeout` has passed.
    Busy,
    /// A lock was not granted within the time limit.
    LockTimeout,
    /// A lock was asked for with `NOWAIT` and somebody else held it.
    LockNotAvailable,
    /// The server ended the statement because it ran too long or was cancelled.
    StatementTimeout,
    /// A constraint was violated; [`Failure::constraint`] says which.
    Constraint,
    /// The connection broke while no commit was in flight: nothing was stored.
    ConnectionLost,
    /// The connection broke, or time ran out, while a commit was in flight: nobody knows whether it was
    /// stored.
    CommitUnknown,
    /// The server or the pool had no connection to give, is starting, stopping or out of some resource.
    Unavailable,
    /// Too many were waiting for the same thing already, in this process: nothing was asked of the database.
    Overloaded,
    /// The server or the transaction only reads: after a failover, or because it was asked to.
    ReadOnly,
    /// The transaction had ended before its commit was due: an earlier error, a statement whose future was
    /// dropped, an implicit commit.
    Aborted,
    /// A claim was taken over by somebody else: its token is not the newest any more.
    StaleClaim,
    /// The database has no such thing as was asked for.
    Unsupported,
    /// Anything else that the database refuses.
    Other,
}

impl FailureKind {
    /// All of them.
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

    /// Whether this failure is caused by other transactions at work on the same rows.
    #[must_use]
    pub const fn is_conflict(self) -> bool {
        matches!(
            self,
            Self::SerializationFailure | Self::Deadlock | Self::StaleVersion | Self::Busy | Self::LockTimeout
        )
    }

    /// Whether every failure of this kind leaves its session of no further use: the session is broken, or its
    /// server is going down or has taken on another role.
    const fn ends_session(self) -> bool {
        self.may_hide_commit() || matches!(self, Self::ReadOnly)
    }

    /// Whether a commit that fails like this may have been stored.
    pub(crate) const fn may_hide_commit(self) -> bool {
        matches!(self, Self::ConnectionLost | Self::CommitUnknown | Self::Unavailable)
    }

    /// As a label: the name of the variant in snake case.
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
    /// A failure as a backend or the transaction itself found it: not worth another attempt, and final if it
    /// answered a commit, unless said otherwise.
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

    /// For whoever asks a database for what it does not have.
    pub(crate) fn unsupported(database: &str, what: &str) -> Self {
        Self::new(FailureKind::Unsupported, format!("{database} has no {what}"))
    }

    pub(crate) fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// The same failure, with something for the caller to know behind what the database said.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.message.push_str("; ");
        self.message.push_str(note);
        self
    }

    /// The same failure, with what was attempted in front of what the database said.
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

    /// Marks a failure after which its session must not be used again, although its kind does not say so.
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

    /// The same failure as the answer to a commit that nobody can tell the end of.
    pub(crate) fn into_commit_unknown(self) -> Self {
        Self { kind: FailureKind::CommitUnknown, retryable: false, definite: false, ..self }
    }

    /// The class of the failure.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether the whole unit of work, run again in a new transaction, may succeed.
    ///
    /// A fact about the failure, not a decision: the strategy decides. Where the cause is the session, as
    /// after a migration that outdates its prepared statements ("cached plan must not change result type") or
    /// on a server that takes no writes any more, the connection is closed, so that the next attempt runs on
    /// another one.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether this failure, as the answer to a commit, proves that nothing was stored.
    pub(crate) const fn is_definite(&self) -> bool {
        self.definite
    }

    /// Whether the session that met this failure is of no further use and is to be closed.
    pub(crate) const fn ends_session(&self) -> bool {
        self.spoils_session || self.kind.ends_session()
    }

    /// Whether a statement that commits itself may have been stored although it failed like this.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        !self.definite && self.kind.may_hide_commit()
    }

    /// Whether a unique or primary key was violated.
    pub(crate) fn is_unique_violation(&self) -> bool {
        self.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
    }

    /// The database's own code: an SQLSTATE on PostgreSQL, an error number on MySQL and MariaDB, an extended
    /// result code on SQLite. `None` where no server spoke.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// What the database said, in its own words, with `…` in place of the values that it quotes.
    ///
    /// Names are shown: of constraints, tables and columns. What a trigger or a function of the database says
    /// by itself (`RAISE`, `SIGNAL`) is left out as a whole, because nobody can tell the values in it; the
    /// [driver's error](crate::Error::driver_error) has it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The constraint that was violated, for [`FailureKind::Constraint`].
    #[must_use]
    pub fn constraint(&self) -> Option<&Constraint> {
        self.constraint.as_deref()
    }

    /// Who waited for whom, for [`FailureKind::Deadlock`], as far as the server says.
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

/// The text of an error followed by those of its sources: `sending the receipt: connection refused`. A source
/// that the text quotes already is not repeated.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// A violated constraint: its kind and, as far as the database tells, its name, table and columns.
///
/// # What each database tells
///
/// | | name | table | columns |
/// |---|---|---|---|
/// | PostgreSQL | all but not-null | all | unique, foreign key, not-null |
/// | MySQL, MariaDB | unique, foreign key, check | foreign key, check (MariaDB) | foreign key, not-null |
/// | SQLite | check | unique, not-null | unique, not-null |
///
/// MySQL, MariaDB and SQLite only say it in the text of the message, from which it is read here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Constraint {
    /// Which rule was broken.
    pub kind: ConstraintKind,
    /// The name of the constraint, or of the index that guards it.
    pub name: Option<String>,
    /// The table that the constraint belongs to.
    pub table: Option<String>,
    /// The columns that it is about, in the order in which the database named them.
    pub columns: Vec<String>,
}

impl Constraint {
    pub(crate) const fn new(kind: ConstraintKind) -> Self {
        Self { kind, name: None, table: None, columns: Vec::new() }
    }
}

/// The rule that a statement broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConstraintKind {
    /// A primary key or unique constraint: there is such a row already.
    Unique,
    /// A foreign key: the parent is not there, or children still are.
    ForeignKey,
    /// A column that must have a value got none.
    NotNull,
    /// A `CHECK` expression (or a strict column type, or a view's check option) was false.
    Check,
    /// PostgreSQL's exclusion constraint.
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
    fn causes_follow_the_error_and_none_is_repeated() {
        let refused = || Some(Box::new(Layer("connection refused", None)));
        let sending = Layer("sending the receipt", refused());
        assert_eq!(with_causes(&sending), "sending the receipt: connection refused");
        let quoting = Layer("sending: connection refused", refused());
        assert_eq!(with_causes(&quoting), "sending: connection refused");
    }
}
