//! The error of the crate.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::panic::Location;
use std::time::Duration;

use crate::backend::{error_text, quotable_source};
use crate::failure::{Constraint, Failure, FailureKind};

mod as_sqlx;
mod conversion;
mod text;

pub(crate) use conversion::{is_running_unit_on, with_running_unit};

/// Why a unit of work did not commit.
///
/// # Why one opaque type?
///
/// A unit may fail for many reasons, but callers react in only a few ways: try later, report to the user,
/// raise an alarm. The type therefore has a [`kind`](Self::kind) and predicates instead of variants, whose
/// payloads could never change. `kind` says how the run ended. The predicates about causes (`is_conflict`,
/// `is_lock_timeout`, …) look at the *last failure*, even if the run ended because its attempts or its time
/// were used up.
///
/// Do not retry an error for which [`is_exhausted`](Self::is_exhausted) is true: the run has used all the
/// time or attempts that it was given.
///
/// # Values
///
/// Neither the text nor the `Debug` output nor any [source](StdError::source) contains the program's data, so
/// all of them may be logged. Values that the server or the driver quotes are replaced (`Duplicate entry '…'
/// for key 'email'`). [`driver_error`](Self::driver_error) returns the complete error of the driver, if there
/// is one.
///
/// ```
/// # use atomically::Error;
/// fn http_status(error: &Error) -> u16 {
///     match () {
///         () if error.constraint().is_some() => 409,
///         () if error.is_exhausted() || error.is_overloaded() || error.is_unavailable() => 503,
///         () => 500,
///     }
/// }
/// assert_eq!(http_status(&Error::from(sqlx::Error::PoolTimedOut)), 503);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    failure: Option<Failure>,
    spent: Option<Spent>,
    source: Option<sqlx::Error>,
    /// The text of the source if that is an error of this crate. Contains no values.
    text: Option<String>,
    swallowed: bool,
    /// What the run was waiting for when its deadline passed.
    during: Option<&'static str>,
    /// Why an argument is invalid.
    input: Option<String>,
    run: Option<RunLabel>,
}

/// The run that an error names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLabel {
    pub(crate) name: &'static str,
    pub(crate) location: Option<&'static Location<'static>>,
}

/// What a run had used when it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
}

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
    /// An argument is invalid, such as the name of a queue or a key; the message names it. Nothing was
    /// sent.
    InvalidInput,
    /// Any other error of the database or the driver.
    Database,
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
            FailureKind::Other => Self::Database,
        }
    }
}

impl Error {
    fn new(kind: ErrorKind, failure: Option<Failure>, spent: Option<Spent>) -> Self {
        Self(Box::new(Inner {
            kind,
            failure,
            spent,
            source: None,
            text: None,
            swallowed: false,
            during: None,
            input: None,
            run: None,
        }))
    }

    pub(crate) fn failed(failure: Failure, spent: Option<Spent>) -> Self {
        Self::new(failure.kind().into(), Some(failure), spent)
    }

    /// The error for a failure that the unit ignored by returning `Ok`.
    pub(crate) fn swallowed(failure: Failure, spent: Option<Spent>) -> Self {
        let mut error = Self::failed(failure, spent);
        error.0.swallowed = true;
        error
    }

    pub(crate) fn exhausted(last: Failure, spent: Spent) -> Self {
        Self::new(ErrorKind::Exhausted, Some(last), Some(spent))
    }

    pub(crate) fn deadline_exceeded(last: Option<Failure>, spent: Spent) -> Self {
        Self::new(ErrorKind::DeadlineExceeded, last, Some(spent))
    }

    pub(crate) fn budget_spent(last: Failure, spent: Spent) -> Self {
        Self::new(ErrorKind::BudgetSpent, Some(last), Some(spent))
    }

    /// The error for an invalid argument. The message names the argument and contains none of the caller's
    /// values.
    pub(crate) fn invalid_input(message: String) -> Self {
        let mut error = Self::new(ErrorKind::InvalidInput, None, None);
        error.0.input = Some(message);
        error
    }

    /// Adds what the run was waiting for when its deadline passed.
    pub(crate) fn while_waiting(mut self, during: &'static str) -> Self {
        self.0.during = Some(during);
        self
    }

    /// Adds the run.
    pub(crate) fn of_run(mut self, run: Option<RunLabel>) -> Self {
        self.0.run = run;
        self
    }

    /// Replaces the failure by that of an earlier commit whose outcome is unknown.
    pub(crate) fn about_commit(self, failure: Failure) -> Self {
        Self::failed(failure, self.0.spent)
    }

    /// The error for a `Transactor` of another crate that reports the end of a unit without having run it.
    pub(crate) fn transactor_broke_its_contract() -> Self {
        let message = "the transactor reported that its unit of work had ended, but has not run it";
        Self::failed(Failure::new(FailureKind::Aborted, message), None)
    }

    /// Wraps an error of the driver. It need not be a failure of the database: a row may be missing, or a
    /// value may not decode.
    pub(crate) fn driver(source: sqlx::Error, failure: Option<Failure>) -> Self {
        let kind = failure.as_ref().map_or(ErrorKind::Database, |failure| failure.kind().into());
        let mut error = Self::new(kind, failure, None);
        error.0.source = Some(source);
        error
    }

    /// Wraps an error of another module of this crate that arrives inside of an sqlx error. The text contains
    /// no values.
    #[cfg_attr(not(any(feature = "queue", feature = "idempotency")), allow(dead_code))]
    pub(crate) fn carried(text: String, source: sqlx::Error) -> Self {
        let mut error = Self::driver(source, None);
        error.0.text = Some(text);
        error
    }

    /// Returns the text of the driver's error without the values in it.
    fn shown_source(&self) -> Option<Cow<'_, str>> {
        let Inner { text, source, .. } = &*self.0;
        text.as_deref().map(Cow::Borrowed).or_else(|| source.as_ref().map(error_text))
    }

    /// Returns a copy for another caller that waited for the same commit. The driver's error cannot be
    /// cloned, so the copy has its text only.
    pub(crate) fn duplicate(&self) -> Self {
        let Inner { kind, failure, spent, swallowed, during, input, run, source: _, text: _ } = &*self.0;
        let text = || self.shown_source().map(|shown| Failure::new(FailureKind::Other, shown));
        let failure = failure.clone().or_else(text);
        let mut copy = Self::new(*kind, failure, *spent);
        copy.0.swallowed = *swallowed;
        copy.0.during = *during;
        copy.0.input = input.clone();
        copy.0.run = *run;
        copy
    }

    /// Returns how the run ended.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the last failure, if there was one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }

    /// Returns the violated constraint, if the last failure was a constraint violation.
    #[must_use]
    pub fn constraint(&self) -> Option<&Constraint> {
        self.failure()?.constraint()
    }

    /// Returns the driver's error that this error was created from, if there is one.
    ///
    /// It contains everything that the server and the driver reported, which may include the program's data:
    /// a duplicate key, a row that violates a constraint, a value that could not be decoded. Do not log it
    /// without care.
    #[must_use]
    pub fn driver_error(&self) -> Option<&sqlx::Error> {
        self.0.source.as_ref()
    }

    /// Returns how many attempts were made, the first one included; 0 if none began, and `None` if the
    /// error does not come from a run.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        self.0.spent.map(|spent| spent.attempts)
    }

    /// Returns how long the whole run took. `None` if the error does not come from a run.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.spent.map(|spent| spent.elapsed)
    }

    /// Returns whether the run has used up its attempts, its deadline or its retry budget.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        matches!(self.kind(), ErrorKind::Exhausted | ErrorKind::DeadlineExceeded | ErrorKind::BudgetSpent)
    }

    /// Returns whether the deadline passed.
    #[must_use]
    pub fn is_deadline_exceeded(&self) -> bool {
        self.kind() == ErrorKind::DeadlineExceeded
    }

    /// Returns whether the outcome of the commit is unknown.
    #[must_use]
    pub fn is_commit_unknown(&self) -> bool {
        self.kind() == ErrorKind::CommitUnknown
    }

    /// Returns whether the last failure was a conflict with another transaction.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind().is_conflict())
    }

    /// Returns whether the last failure was a lock timeout.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.failed_with(FailureKind::LockTimeout)
    }

    /// Returns whether the last failure was a `NOWAIT` lock that another transaction held.
    #[must_use]
    pub fn is_lock_not_available(&self) -> bool {
        self.failed_with(FailureKind::LockNotAvailable)
    }

    /// Returns whether the last failure was that no connection was available or the server was not ready.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.failed_with(FailureKind::Unavailable)
    }

    /// Returns whether the last failure was that too many units were waiting in this process.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.failed_with(FailureKind::Overloaded)
    }

    /// Returns whether the last failure was that the unit misused its transaction, or that something ended
    /// the transaction unseen.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.failed_with(FailureKind::Aborted)
    }

    /// Returns whether the last failure was that another worker took over the claim.
    #[must_use]
    pub fn is_stale_claim(&self) -> bool {
        self.failed_with(FailureKind::StaleClaim)
    }

    fn failed_with(&self, kind: FailureKind) -> bool {
        self.failure().is_some_and(|failure| failure.kind() == kind)
    }
}

impl StdError for Error {
    /// Returns the cause of the driver's error if this error's text does not contain it and it quotes no
    /// values: an error of the operating system, of TLS, of the configuration. The driver's error itself is
    /// [`driver_error`](Error::driver_error).
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.0.failure {
            Some(_) => None,
            None => self.driver_error().and_then(quotable_source),
        }
    }
}
