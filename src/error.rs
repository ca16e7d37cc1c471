//! The error of the crate.

use std::error::Error as StdError;
use std::panic::Location;
use std::time::Duration;

use crate::backend::{error_text, quotable_source};
use crate::failure::{Constraint, Failure, FailureKind};

mod as_sqlx;
mod conversion;
mod kind;
mod missing_rows;
mod status;
mod text;

pub(crate) use conversion::{is_running_unit_on, with_running_unit};
pub use kind::ErrorKind;

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
/// # Over HTTP
///
/// [`http_status`](Self::http_status) maps every kind to a status code, and
/// [`retry_after`](Self::retry_after) says when a client should try again.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    failure: Option<Failure>,
    spent: Option<Spent>,
    source: Option<sqlx::Error>,
    /// A typed error of another module of this crate.
    cause: Option<Box<dyn StdError + Send + Sync>>,
    /// The text of an error without a failure: of its source or its cause. Contains no values.
    text: Option<String>,
    swallowed: bool,
    /// What the run was waiting for when its deadline passed.
    during: Option<&'static str>,
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

impl Error {
    fn new(kind: ErrorKind, failure: Option<Failure>, spent: Option<Spent>) -> Self {
        Self(Box::new(Inner {
            kind,
            failure,
            spent,
            source: None,
            cause: None,
            text: None,
            swallowed: false,
            during: None,
            run: None,
        }))
    }

    pub(crate) fn failed(failure: Failure, spent: Option<Spent>) -> Self {
        Self::new(ErrorKind::of_failure(&failure), Some(failure), spent)
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
        Self::failed(Failure::new(FailureKind::InvalidInput, message), None)
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

    /// Prepends what was attempted to the message of the failure or of the driver.
    pub(crate) fn in_context(mut self, context: &str) -> Self {
        self.0.failure = self.0.failure.map(|failure| failure.in_context(context));
        self.0.text = self.0.text.map(|text| format!("{context}: {text}"));
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
        let kind = failure.as_ref().map_or_else(|| ErrorKind::of_driver(&source), ErrorKind::of_failure);
        let text = failure.is_none().then(|| error_text(&source).into_owned());
        let mut error = Self::new(kind, failure, None);
        error.0.source = Some(source);
        error.0.text = text;
        error
    }

    /// Wraps a typed error of another module of this crate, whose text contains no values.
    pub(crate) fn typed(kind: ErrorKind, cause: impl StdError + Send + Sync + 'static) -> Self {
        let mut error = Self::new(kind, None, None);
        error.0.text = Some(cause.to_string());
        error.0.cause = Some(Box::new(cause));
        error
    }

    /// Returns the typed error of another module of this crate that this error wraps.
    pub(crate) fn cause<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.cause.as_ref()?.downcast_ref()
    }

    /// Returns a copy for another caller that waited for the same commit. The errors of the driver and of
    /// other modules cannot be cloned, so the copy has their text only.
    pub(crate) fn duplicate(&self) -> Self {
        let Inner { kind, failure, spent, swallowed, during, run, text, source: _, cause: _ } = &*self.0;
        let mut copy = Self::new(*kind, failure.clone(), *spent);
        copy.0.text = text.clone();
        copy.0.swallowed = *swallowed;
        copy.0.during = *during;
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
