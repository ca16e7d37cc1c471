//! The HTTP status of each error.

use std::time::Duration;

use super::{Error, ErrorKind};
use crate::failure::ConstraintKind;

/// # Over HTTP
impl Error {
    /// Returns the HTTP status code for a response that reports this error.
    ///
    /// | [`ErrorKind`] | status | why |
    /// |---|---|---|
    /// | `Exhausted`, `DeadlineExceeded` | 503 | too many conflicts, or too slow; nothing was stored |
    /// | `BudgetSpent`, `Overloaded` | 503 | too much load; nothing was stored |
    /// | `Unavailable`, `ConnectionLost` | 503 | the database is down or restarting; nothing was stored |
    /// | `ReadOnly` | 503 | the database is failing over; nothing was stored |
    /// | `LockTimeout`, `StatementTimeout` | 503 | the database was too slow; nothing was stored |
    /// | `CommitUnknown` | 503 | the outcome is unknown: see below |
    /// | `Conflict`, `LockNotAvailable` | 409 | another request is changing the same rows |
    /// | `StaleClaim` | 409 | another worker was first |
    /// | `Constraint`: unique, exclusion, foreign key | 409 | the request contradicts what is stored |
    /// | `Constraint`: check, not-null | 422 | the values are not acceptable, whatever is stored |
    /// | `RowNotFound` | 404 | a row that the unit requires does not exist |
    /// | `Aborted`, `Unsupported`, `InvalidInput` | 500 | a defect of the program |
    /// | `Decode`, `MissingTable`, `Database` | 500 | a defect of the program or its schema |
    ///
    /// An error whose kind is `Exhausted`, `DeadlineExceeded` or `BudgetSpent` keeps this status whatever its
    /// last failure was: the client did nothing wrong, and the same request may succeed later. The one
    /// exception is a [constraint](Self::constraint) that was violated at each attempt.
    ///
    /// # Where your service differs
    ///
    /// The mapping assumes that the client has caused what only a client can cause. Override it where that
    /// is not so: if the missing row is not the requested resource but one that must exist, 404 hides a
    /// defect; if an argument such as the unique key of a job comes from the client, `InvalidInput` is 422.
    ///
    /// # A commit whose outcome is unknown
    ///
    /// 503 invites the client to send the request again, and the request may have been stored. That is
    /// harmless for requests that may be repeated, and for those with an idempotency key. For any other
    /// request, say so in the body of the response, or let the unit [find
    /// out](crate::Options::resolve_commits).
    ///
    /// ```
    /// use atomically::Error;
    ///
    /// let error = Error::from(sqlx::Error::RowNotFound);
    /// assert_eq!((error.http_status(), error.retry_after()), (404, None));
    /// let error = Error::from(sqlx::Error::PoolTimedOut);
    /// assert_eq!(error.http_status(), 503);
    /// ```
    #[must_use]
    pub fn http_status(&self) -> u16 {
        if let Some(constraint) = self.constraint() {
            return match constraint.kind {
                ConstraintKind::Unique | ConstraintKind::Exclusion | ConstraintKind::ForeignKey => 409,
                ConstraintKind::NotNull | ConstraintKind::Check => 422,
            };
        }
        match self.kind() {
            ErrorKind::Exhausted
            | ErrorKind::DeadlineExceeded
            | ErrorKind::BudgetSpent
            | ErrorKind::Overloaded
            | ErrorKind::Unavailable
            | ErrorKind::ConnectionLost
            | ErrorKind::ReadOnly
            | ErrorKind::LockTimeout
            | ErrorKind::StatementTimeout
            | ErrorKind::CommitUnknown => 503,
            ErrorKind::Conflict
            | ErrorKind::LockNotAvailable
            | ErrorKind::StaleClaim
            | ErrorKind::Constraint => 409,
            ErrorKind::RowNotFound => 404,
            ErrorKind::Aborted
            | ErrorKind::Unsupported
            | ErrorKind::InvalidInput
            | ErrorKind::Decode
            | ErrorKind::MissingTable
            | ErrorKind::Database => 500,
        }
    }

    /// Returns how long a client should wait before it sends the request again, for the header
    /// `Retry-After`. `None` if the same request would fail again.
    ///
    /// - 5 s if the database is down or failing over: `Unavailable`, `ConnectionLost` and `ReadOnly`, also as
    ///   the last failure of a run whose attempts or time were used up
    /// - 1 s for every other error whose [status](Self::http_status) is 503, and for `Conflict` and
    ///   `LockNotAvailable`
    ///
    /// Clients that were refused at once and wait equally long come back at once. Where many are, add a
    /// random part of a few seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let is_transient = match self.http_status() {
            503 => true,
            409 => matches!(self.kind(), ErrorKind::Conflict | ErrorKind::LockNotAvailable),
            _ => false,
        };
        let last = self.failure().map_or(self.kind(), |failure| failure.kind().into());
        let is_down =
            matches!(last, ErrorKind::Unavailable | ErrorKind::ConnectionLost | ErrorKind::ReadOnly);
        is_transient.then(|| Duration::from_secs(if is_down { 5 } else { 1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Spent;
    use crate::failure::{Constraint, Failure, FailureKind};

    fn failed(kind: FailureKind) -> Error {
        Error::failed(Failure::new(kind, "a test"), None)
    }

    #[test]
    fn an_unavailable_database_is_503_whatever_ended_the_run() {
        let spent = Spent { attempts: 3, elapsed: Duration::from_secs(3) };
        let down = || Failure::new(FailureKind::Unavailable, "connection refused");
        for error in [
            failed(FailureKind::Unavailable),
            Error::exhausted(down(), spent),
            Error::deadline_exceeded(Some(down()), spent),
        ] {
            assert_eq!((error.http_status(), error.retry_after()), (503, Some(Duration::from_secs(5))));
        }
        let late = Error::deadline_exceeded(None, spent);
        assert_eq!((late.http_status(), late.retry_after()), (503, Some(Duration::from_secs(1))));
        let unknown = failed(FailureKind::CommitUnknown);
        assert_eq!((unknown.http_status(), unknown.retry_after()), (503, Some(Duration::from_secs(1))));
    }

    #[test]
    fn a_violated_constraint_is_the_request_not_the_server() {
        for (kind, status) in [
            (ConstraintKind::Unique, 409),
            (ConstraintKind::Exclusion, 409),
            (ConstraintKind::ForeignKey, 409),
            (ConstraintKind::NotNull, 422),
            (ConstraintKind::Check, 422),
        ] {
            let failure =
                Failure::new(FailureKind::Constraint, "a test").with_constraint(Some(Constraint::new(kind)));
            let spent = Spent { attempts: 3, elapsed: Duration::from_secs(1) };
            for error in [Error::failed(failure.clone(), None), Error::exhausted(failure, spent)] {
                assert_eq!((error.http_status(), error.retry_after()), (status, None), "{kind:?}");
            }
        }
    }

    #[test]
    fn only_conflicts_among_the_4xx_are_worth_another_request() {
        for (kind, status, wait) in [
            (FailureKind::Deadlock, 409, Some(1)),
            (FailureKind::LockNotAvailable, 409, Some(1)),
            (FailureKind::StaleClaim, 409, None),
            (FailureKind::InvalidInput, 500, None),
            (FailureKind::Aborted, 500, None),
        ] {
            let error = failed(kind);
            let expected = (status, wait.map(Duration::from_secs));
            assert_eq!((error.http_status(), error.retry_after()), expected, "{kind:?}");
        }
    }
}
