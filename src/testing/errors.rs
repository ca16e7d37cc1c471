//! Errors of every kind, for tests of what a program does with them.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Spent};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};

/// Returns an error of this kind, as a run could have returned it.
///
/// Use it to test how your program maps errors, without a database:
///
/// ```
/// use atomically::testing::{constraint_error, error};
/// use atomically::{ConstraintKind, Error, ErrorKind};
///
/// fn status(error: &Error) -> u16 {
///     match error.constraint() {
///         Some(constraint) if constraint.name.as_deref() == Some("customer_email_key") => 422,
///         _ => error.http_status(),
///     }
/// }
///
/// for kind in ErrorKind::ALL {
///     assert_eq!(error(kind).kind(), kind);
/// }
/// assert_eq!(status(&error(ErrorKind::Overloaded)), 503);
/// assert_eq!(status(&constraint_error(ConstraintKind::Unique, "customer_email_key")), 422);
/// assert_eq!(status(&constraint_error(ConstraintKind::Unique, "order_number_key")), 409);
/// ```
///
/// The error has what errors of its kind have: a [failure](Error::failure) and, if it comes from a run that
/// gave up, the number of its attempts. The last failure of `Exhausted`, `DeadlineExceeded` and
/// `BudgetSpent` is a deadlock; [`error_after`] chooses another one. To test the unit itself, with errors
/// that a database raises, use [`Faults`](super::Faults).
#[must_use]
pub fn error(kind: ErrorKind) -> Error {
    match kind {
        ErrorKind::Exhausted | ErrorKind::DeadlineExceeded | ErrorKind::BudgetSpent => {
            error_after(kind, FailureKind::Deadlock)
        }
        ErrorKind::Constraint => constraint_error(ConstraintKind::Unique, "synthetic_key"),
        ErrorKind::Conflict => of_run(FailureKind::SerializationFailure),
        ErrorKind::LockTimeout => of_run(FailureKind::LockTimeout),
        ErrorKind::LockNotAvailable => of_run(FailureKind::LockNotAvailable),
        ErrorKind::StatementTimeout => of_run(FailureKind::StatementTimeout),
        ErrorKind::ConnectionLost => of_run(FailureKind::ConnectionLost),
        ErrorKind::CommitUnknown => of_run(FailureKind::CommitUnknown),
        ErrorKind::Unavailable => of_run(FailureKind::Unavailable),
        ErrorKind::Overloaded => of_run(FailureKind::Overloaded),
        ErrorKind::ReadOnly => of_run(FailureKind::ReadOnly),
        ErrorKind::Aborted => of_run(FailureKind::Aborted),
        ErrorKind::StaleClaim => of_run(FailureKind::StaleClaim),
        ErrorKind::Unsupported => of_run(FailureKind::Unsupported),
        ErrorKind::InvalidInput => of_run(FailureKind::InvalidInput),
        ErrorKind::RowNotFound => sqlx::Error::RowNotFound.into(),
        ErrorKind::Decode => sqlx::Error::Decode(MESSAGE.into()).into(),
        ErrorKind::MissingTable => Error::typed(kind, Synthetic),
        ErrorKind::Database => of_run(FailureKind::Other),
    }
}

/// Returns an error of this kind whose last failure is of the other kind, such as `Exhausted` after
/// `Unavailable`. For kinds that a single failure determines, returns [`error`].
#[must_use]
pub fn error_after(kind: ErrorKind, last: FailureKind) -> Error {
    let last = failure(last);
    match kind {
        ErrorKind::Exhausted => Error::exhausted(last, SPENT),
        ErrorKind::DeadlineExceeded => Error::deadline_exceeded(Some(last), SPENT),
        ErrorKind::BudgetSpent => Error::budget_spent(last, SPENT),
        _ => error(kind),
    }
}

/// Returns the error of a violated constraint with this name.
#[must_use]
pub fn constraint_error(kind: ConstraintKind, name: impl Into<String>) -> Error {
    let constraint = Constraint { name: Some(name.into()), ..Constraint::new(kind) };
    let failure = failure(FailureKind::Constraint).with_constraint(Some(constraint));
    Error::failed(failure, Some(SPENT))
}

const MESSAGE: &str = "a synthetic failure, for a test";

const SPENT: Spent = Spent { attempts: 3, elapsed: Duration::from_millis(250) };

#[derive(Debug, thiserror::Error)]
#[error("{MESSAGE}")]
struct Synthetic;

fn of_run(kind: FailureKind) -> Error {
    Error::failed(failure(kind), Some(SPENT))
}

fn failure(kind: FailureKind) -> Failure {
    let is_retryable = kind.is_conflict() || matches!(kind, FailureKind::Unavailable);
    Failure::new(kind, MESSAGE).retryable(is_retryable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_error() {
        for kind in ErrorKind::ALL {
            let error = error(kind);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().len() > 10, "{kind:?}: {error}");
            assert_eq!(error.constraint().is_some(), kind == ErrorKind::Constraint, "{error:?}");
        }
    }

    #[test]
    fn the_last_failure_of_a_run_that_gave_up_can_be_chosen() {
        for kind in [ErrorKind::Exhausted, ErrorKind::DeadlineExceeded, ErrorKind::BudgetSpent] {
            assert!(error(kind).is_conflict());
            let error = error_after(kind, FailureKind::Unavailable);
            assert_eq!((error.kind(), error.is_unavailable(), error.attempts()), (kind, true, Some(3)));
        }
        assert_eq!(error_after(ErrorKind::Aborted, FailureKind::Busy).kind(), ErrorKind::Aborted);
    }
}
