//! The crate's error.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::panic::Location;
use std::time::Duration;

use crate::backend::{quotable_source, shown};
use crate::failure::{Constraint, Failure, FailureKind};

mod as_sqlx;
mod text;

pub(crate) use as_sqlx::recovered;

/// Why a unit of work did not commit.
///
/// # Why one opaque type?
///
/// A unit may end for many reasons, but its callers act in few ways: try later, tell the user, raise an
/// alarm. So there is one type with a [`kind`](Self::kind) and predicates, rather than an enum whose every
/// payload is a promise. The predicates about causes (`is_conflict`, `is_lock_timeout`, …) look at the *last
/// failure*, also when it was running out of attempts or of time that ended the unit; `kind` says how it
/// ended.
///
/// An error that says [`is_exhausted`](Self::is_exhausted) is final: do not wrap it into a loop of your own,
/// the time that was granted has been spent.
///
/// # Values
///
/// Neither its text nor its `Debug` output holds a value of the program, and neither does any
/// [source](StdError::source) of it, so that all of it may be logged: what the server or the driver quotes is
/// left out (`Duplicate entry '…' for key 'email'`). The driver's own error, with everything that it says, is
/// in [`driver_error`](Self::driver_error), where the error was made from one.
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
    /// The text of the source, where it is one of this crate's own and holds no values.
    text: Option<String>,
    swallowed: bool,
    /// What the deadline was spent on waiting for.
    during: Option<&'static str>,
    /// What is wrong with an argument.
    input: Option<String>,
    run: Option<RunLabel>,
}

/// A run as its errors call it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLabel {
    pub(crate) name: &'static str,
    pub(crate) location: Option<&'static Location<'static>>,
}

/// What a run had used up when it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
}

/// How a unit of work ended without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Every attempt that was granted met a failure worth another one.
    Exhausted,
    /// The deadline passed first.
    DeadlineExceeded,
    /// The next attempt was not in the [`RetryBudget`](crate::RetryBudget).
    BudgetSpent,
    /// The database gave up on this transaction because of others, and the strategy does not run it again.
    Conflict,
    /// A lock was not granted in time, and the strategy does not run the unit again.
    LockTimeout,
    /// A lock asked for with `NOWAIT` was held by somebody else.
    LockNotAvailable,
    /// The server ended a statement that ran too long.
    StatementTimeout,
    /// A constraint was violated.
    Constraint,
    /// The connection broke before a commit was sent.
    ConnectionLost,
    /// A commit was sent and its answer never came: it may have been stored, or not. Never run such a unit
    /// again blindly.
    CommitUnknown,
    /// No connection was to be had, or the server is starting, stopping or short of something.
    Unavailable,
    /// Too many were waiting in this process already. Nothing was asked of the database.
    Overloaded,
    /// The server takes no writes.
    ReadOnly,
    /// The unit of work misused its transaction, or something ended it underneath; the message says what.
    Aborted,
    /// Somebody else has taken over what was claimed here: the effect is theirs to have, and was rolled back
    /// here. Drop the work; it must not be run again under this claim.
    StaleClaim,
    /// The database has no such thing as was asked for; nothing was run.
    Unsupported,
    /// An argument that cannot be used: the name of a queue, a key. Nothing was sent; the message names it.
    InvalidInput,
    /// Anything else, as the database or the driver said it.
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

    /// A failure that the unit of work hid by returning `Ok`.
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

    /// An argument of the crate's own that cannot be used. The message names it, and shows no value of the
    /// caller's.
    #[cfg(feature = "queue")]
    pub(crate) fn invalid_input(message: String) -> Self {
        let mut error = Self::new(ErrorKind::InvalidInput, None, None);
        error.0.input = Some(message);
        error
    }

    /// The same error, with what the deadline was spent on waiting for.
    pub(crate) fn while_waiting(mut self, during: &'static str) -> Self {
        self.0.during = Some(during);
        self
    }

    /// The same error, of the run with this name.
    pub(crate) fn of_run(mut self, run: Option<RunLabel>) -> Self {
        self.0.run = run;
        self
    }

    /// The same end of a run, of which an earlier commit is still unknown.
    pub(crate) fn about_commit(self, failure: Failure) -> Self {
        Self::failed(failure, self.0.spent)
    }

    /// A transactor that is not of this crate said that its unit was done, and never ran it.
    pub(crate) fn transactor_broke_its_contract() -> Self {
        let message = "the transactor reported an end that its unit of work does not know of";
        Self::failed(Failure::new(FailureKind::Aborted, message), None)
    }

    /// A driver's error that says nothing about the database: a row that was not found, a value that did not
    /// decode.
    pub(crate) fn driver(source: sqlx::Error, failure: Option<Failure>) -> Self {
        let kind = failure.as_ref().map_or(ErrorKind::Database, |failure| failure.kind().into());
        let mut error = Self::new(kind, failure, None);
        error.0.source = Some(source);
        error
    }

    /// An error of this crate's own that is carried by one of the driver's. Its text holds no values.
    #[cfg_attr(not(any(feature = "queue", feature = "idempotency")), allow(dead_code))]
    pub(crate) fn carried(text: String, source: sqlx::Error) -> Self {
        let mut error = Self::driver(source, None);
        error.0.text = Some(text);
        error
    }

    /// What is shown of the driver's error.
    fn shown_source(&self) -> Option<Cow<'_, str>> {
        let Inner { text, source, .. } = &*self.0;
        text.as_deref().map(Cow::Borrowed).or_else(|| source.as_ref().map(shown))
    }

    /// The same error for another one who waited for the same commit. The driver's own error goes to one of
    /// them only, and the others are told what it said.
    pub(crate) fn told_again(&self) -> Self {
        let Inner { kind, failure, spent, swallowed, during, input, run, source: _, text: _ } = &*self.0;
        let said = || self.shown_source().map(|shown| Failure::new(FailureKind::Other, shown));
        let failure = failure.clone().or_else(said);
        let mut again = Self::new(*kind, failure, *spent);
        again.0.swallowed = *swallowed;
        again.0.during = *during;
        again.0.input = input.clone();
        again.0.run = *run;
        again
    }

    /// How the unit ended.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The last thing that went wrong in the database, where there is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }

    /// The constraint that was violated, where that was the last failure.
    #[must_use]
    pub fn constraint(&self) -> Option<&Constraint> {
        self.failure()?.constraint()
    }

    /// The driver's error that this one was made from, where it was.
    ///
    /// It says all that the server and the driver had to say, and so may quote values of the program: the
    /// text of a duplicate, a row that violates a constraint, what could not be decoded. Take care where it
    /// is logged.
    #[must_use]
    pub fn driver_error(&self) -> Option<&sqlx::Error> {
        self.0.source.as_ref()
    }

    /// How many attempts were made, the first included; 0 where none began. `None` where no run was involved.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        self.0.spent.map(|spent| spent.attempts)
    }

    /// How long the run took in all. `None` where no run was involved.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.spent.map(|spent| spent.elapsed)
    }

    /// Whether the run used up what it was granted, be it attempts, time or a share of the retries.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        matches!(self.kind(), ErrorKind::Exhausted | ErrorKind::DeadlineExceeded | ErrorKind::BudgetSpent)
    }

    /// Whether the deadline ended the run.
    #[must_use]
    pub fn is_deadline_exceeded(&self) -> bool {
        self.kind() == ErrorKind::DeadlineExceeded
    }

    /// Whether the unit may or may not have been stored.
    #[must_use]
    pub fn is_commit_unknown(&self) -> bool {
        self.kind() == ErrorKind::CommitUnknown
    }

    /// Whether other transactions on the same rows were the last thing in the way.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.failure().is_some_and(|failure| failure.kind().is_conflict())
    }

    /// Whether the last failure was a lock that was not granted in time.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        self.failed_with(FailureKind::LockTimeout)
    }

    /// Whether the last failure was a lock refused at once, as `NOWAIT` asks.
    #[must_use]
    pub fn is_lock_not_available(&self) -> bool {
        self.failed_with(FailureKind::LockNotAvailable)
    }

    /// Whether the last failure was that no connection could be had or the server was not ready.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.failed_with(FailureKind::Unavailable)
    }

    /// Whether the last thing in the way was that too many were waiting in this process already.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.failed_with(FailureKind::Overloaded)
    }

    /// Whether the transaction was refused a commit because it had failed, was misused or had ended
    /// underneath.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.failed_with(FailureKind::Aborted)
    }

    /// Whether what was claimed has been taken over by somebody else.
    #[must_use]
    pub fn is_stale_claim(&self) -> bool {
        self.failed_with(FailureKind::StaleClaim)
    }

    fn failed_with(&self, kind: FailureKind) -> bool {
        self.failure().is_some_and(|failure| failure.kind() == kind)
    }
}

impl StdError for Error {
    /// What is behind the driver's error, where that is not part of this one's text already and quotes no
    /// values: an error of the operating system, of TLS, of the configuration. The driver's error is in
    /// [`driver_error`](Error::driver_error).
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.0.failure {
            Some(_) => None,
            None => self.driver_error().and_then(quotable_source),
        }
    }
}
