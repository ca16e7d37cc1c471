//! Classified failures of the database.
//!
//! A [`Failure`] passes through all layers: a backend creates it from a driver's error, a transaction
//! remembers it, a strategy judges it, and an [`Error`](crate::Error) reports it.

use std::fmt;

use crate::deadlock::DeadlockReport;

mod constraint;
mod kind;

pub use constraint::{Constraint, ConstraintKind};
pub use kind::FailureKind;

/// A classified failure of a transaction, with the database's code and message.
///
/// Contains only text and plain data, and none of the program's data. The unit whose statement failed
/// receives the driver's own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    retryable: bool,
    definite: bool,
    spoils_session: bool,
    lacks_own_table: bool,
    code: Option<String>,
    message: String,
    constraint: Option<Box<Constraint>>,
    deadlock: Option<Box<DeadlockReport>>,
}

impl Failure {
    /// Creates a failure that is not retryable and is definite: in response to COMMIT, it proves that nothing
    /// was stored. The methods below change these properties.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            retryable: false,
            definite: true,
            spoils_session: false,
            lacks_own_table: false,
            code: None,
            message: message.into(),
            constraint: None,
            deadlock: None,
        }
    }

    /// Returns the failure for a feature that the database does not have.
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

    /// Sets whether the session must not be used again after this failure, even if its kind does not imply
    /// that.
    pub(crate) fn spoiling_session(mut self, spoils: bool) -> Self {
        self.spoils_session = spoils;
        self
    }

    /// Marks the failure as one of a statement on a table of this crate that does not exist.
    pub(crate) fn lacking_own_table(mut self) -> Self {
        self.lacks_own_table = true;
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
    /// This is a property of the failure; the strategy decides whether to retry. If the session is the cause,
    /// its connection is closed, so that the next attempt runs on another one. This happens after a migration
    /// that invalidates prepared statements ("cached plan must not change result type"), and on a server that
    /// has become read-only.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Returns whether this failure, in response to COMMIT, proves that nothing was stored.
    pub(crate) const fn is_definite(&self) -> bool {
        self.definite
    }

    /// Returns whether the session is unusable after this failure, so that its connection has to be closed.
    pub(crate) const fn ends_session(&self) -> bool {
        self.spoils_session || self.kind.ends_session()
    }

    /// Returns whether a statement that is its own transaction may have been stored despite this failure.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        !self.definite && self.kind.may_hide_commit()
    }

    /// Returns whether a table of this crate does not exist.
    pub(crate) const fn lacks_own_table(&self) -> bool {
        self.lacks_own_table
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
    /// `SIGNAL`) is left out entirely, because values in it cannot be recognized. The [driver's
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

/// Returns the text of an error followed by those of its sources: `sending the receipt: connection refused`.
/// A source whose text is already contained is left out.
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
