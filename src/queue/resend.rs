//! Sends changes of a claimed job again while its lease lasts.

use std::time::Duration;

use futures_core::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::claim::Claim;
use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind};
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor};

/// The maximum time of one attempt: the deadline of the queue's transactions.
const MAX_ATTEMPT: Duration = Duration::from_secs(10);

/// If less than this is left of the lease, there is no time for a second attempt, so the first is not
/// shortened.
const MIN_DIVIDED: Duration = Duration::from_secs(2);

/// The delays between attempts.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_millis(250);

/// One attempt to send a change.
pub(super) struct SendAttempt<DB: Backend> {
    /// The queue's transactor, with the deadline of this attempt.
    pub(super) db: PoolTransactor<DB, Pessimistic>,
    /// Whether the outcome of an earlier attempt is unknown. If so, a job that is no longer held may have
    /// been changed by that attempt.
    pub(super) is_repeated: bool,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendOutcome {
    /// The job was held by this claim, and is changed.
    Changed,
    /// The job is no longer held by this claim: an earlier attempt has changed it, or another worker has
    /// taken it over.
    NotHeld,
}

impl<DB: Backend> Claim<DB> {
    /// Sends a change of the job until the outcome is known or the lease has expired. If the job is not held,
    /// `change` returns [`SendOutcome::NotHeld`] when the attempt is repeated, and fails with a stale claim
    /// otherwise.
    ///
    /// # Why is it safe to send it again?
    ///
    /// The statement checks the token, and executing it removes the token. So a second attempt changes
    /// nothing if the first one was executed. While the lease lasts, only the holder can have removed the
    /// token, so `NotHeld` means that an earlier attempt was executed. After that, another worker may have
    /// taken the job over, and the outcome stays unknown.
    pub(super) async fn resend<'c>(
        &'c self,
        change: impl Fn(SendAttempt<DB>) -> BoxFuture<'c, Result<SendOutcome, Error>> + Send + Sync,
    ) -> Result<(), Error> {
        self.resend_after(None, change).await
    }

    /// Like [`resend`](Self::resend), after an earlier attempt that ended with `unknown`, if there was one.
    pub(super) async fn resend_after<'c>(
        &'c self,
        mut unknown: Option<Error>,
        change: impl Fn(SendAttempt<DB>) -> BoxFuture<'c, Result<SendOutcome, Error>> + Send + Sync,
    ) -> Result<(), Error> {
        let mut delays =
            Backoff::exponential(FIRST_DELAY, MAX_DELAY).delays(StdRng::from_rng(&mut rand::rng()));
        loop {
            let left = self.lease().end().saturating_duration_since(Instant::now());
            let db = self.queue().db.clone().options(Options::new().deadline(attempt_deadline(left)));
            let error = match change(SendAttempt { db, is_repeated: unknown.is_some() }).await {
                Ok(SendOutcome::Changed) => return Ok(()),
                Ok(SendOutcome::NotHeld) if self.lease().is_certain() => return Ok(()),
                Ok(SendOutcome::NotHeld) => return Err(unknown.unwrap_or_else(|| self.stale_error())),
                Err(error) => error,
            };
            // A stale claim is definite, whatever the outcome of earlier attempts.
            if error.is_stale_claim() {
                return Err(error);
            }
            let is_transient = is_transient(error.kind());
            // An unknown outcome takes precedence: the caller has to know that the change may be stored.
            let error = unknown.take().unwrap_or(error);
            let delay = delays.next().unwrap_or(MAX_DELAY);
            if !is_transient || Instant::now() + delay >= self.lease().end() {
                return Err(error);
            }
            unknown = error.is_commit_unknown().then_some(error);
            sleep(delay).await;
        }
    }
}

/// Returns the deadline of an attempt: half of the remaining lease, so that a connection that does not
/// respond is abandoned in time for an attempt on another one.
pub(super) fn attempt_deadline(left: Duration) -> Duration {
    if left < MIN_DIVIDED { MAX_ATTEMPT } else { MAX_ATTEMPT.min(left / 2) }
}

/// Whether another attempt may succeed after this error.
const fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CommitUnknown
            | ErrorKind::ConnectionLost
            | ErrorKind::Unavailable
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Exhausted
            | ErrorKind::BudgetSpent
            | ErrorKind::Conflict
            | ErrorKind::LockTimeout
            | ErrorKind::StatementTimeout
            | ErrorKind::ReadOnly
            | ErrorKind::Overloaded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_leaves_time_for_another_one() {
        let seconds = Duration::from_secs;
        assert_eq!(attempt_deadline(seconds(30)), seconds(10));
        assert_eq!(attempt_deadline(seconds(6)), seconds(3));
        assert_eq!(attempt_deadline(seconds(1)), seconds(10), "there is no time for another attempt");
        assert_eq!(attempt_deadline(Duration::ZERO), seconds(10));
    }
}
