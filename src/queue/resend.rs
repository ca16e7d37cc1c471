//! Changes of a claimed job that are sent again while its lease lasts.

use std::time::Duration;

use futures_core::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::claim::Claim;
use super::sql::QueueBackend;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind};
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor};

/// The longest time that one sending may take: the deadline of the queue's transactions.
const MAX_SENDING: Duration = Duration::from_secs(10);

/// A lease that is shorter than this leaves no time to give up on a sending and begin another one.
const MIN_DIVIDED: Duration = Duration::from_secs(2);

/// The pauses between two sendings.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// One sending of a change.
pub(super) struct EndSending<DB: QueueBackend> {
    /// The queue's transactor, with the time that this sending has.
    pub(super) db: PoolTransactor<DB, Pessimistic>,
    /// Whether an earlier sending may have been executed: a job that is not found then may have been changed
    /// by it.
    pub(super) is_repeated: bool,
}

/// What a sending found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SentEnd {
    /// The job was held by this claim, and is changed.
    Changed,
    /// The job is not held by this claim any more: an earlier sending has changed it, or another worker has
    /// it.
    NotHeld,
}

impl<DB: QueueBackend> Claim<DB> {
    /// Sends a change of the job until it is answered or the lease has lapsed. `change` reports a job that is
    /// not held as [`SentEnd::NotHeld`] where the sending is repeated, and as a stale claim otherwise.
    ///
    /// # Why may it be sent again?
    ///
    /// The statement checks the token, and a change that was executed has removed the token with it: the
    /// second sending finds nothing to do. As long as the lease lasts, the only one who can have removed it
    /// is the holder, so "not found" means that an earlier sending was executed. Afterwards another worker
    /// may have taken the job over, and the outcome stays unknown.
    pub(super) async fn resend<'c>(
        &'c self,
        change: impl Fn(EndSending<DB>) -> BoxFuture<'c, Result<SentEnd, Error>> + Send + Sync,
    ) -> Result<(), Error> {
        let mut pauses =
            Backoff::exponential(FIRST_PAUSE, MAX_PAUSE).delays(StdRng::from_rng(&mut rand::rng()));
        let mut unknown = None;
        loop {
            let left = self.lease().end().saturating_duration_since(Instant::now());
            let db = self.queue().db.clone().options(Options::new().deadline(time_of_a_sending(left)));
            let error = match change(EndSending { db, is_repeated: unknown.is_some() }).await {
                Ok(SentEnd::Changed) => return Ok(()),
                Ok(SentEnd::NotHeld) if self.lease().is_certain() => return Ok(()),
                Ok(SentEnd::NotHeld) => return Err(unknown.unwrap_or_else(|| self.stale_error())),
                Err(error) => error,
            };
            // Definite, whatever was sent before.
            if error.is_stale_claim() {
                return Err(error);
            }
            let passes = may_pass(error.kind());
            // That an earlier sending may have been executed is what the caller must know.
            let error = unknown.take().unwrap_or(error);
            let pause = pauses.next().unwrap_or(MAX_PAUSE);
            if !passes || Instant::now() + pause >= self.lease().end() {
                return Err(error);
            }
            unknown = error.is_commit_unknown().then_some(error);
            sleep(pause).await;
        }
    }
}

/// Half of what is left of the lease, so that a connection that has fallen silent is given up in time for
/// another one.
fn time_of_a_sending(left: Duration) -> Duration {
    if left < MIN_DIVIDED { MAX_SENDING } else { MAX_SENDING.min(left / 2) }
}

/// Whether another sending may succeed where one ended like this.
const fn may_pass(kind: ErrorKind) -> bool {
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
    fn a_sending_leaves_time_for_another_one() {
        let seconds = Duration::from_secs;
        assert_eq!(time_of_a_sending(seconds(30)), seconds(10));
        assert_eq!(time_of_a_sending(seconds(6)), seconds(3));
        assert_eq!(time_of_a_sending(seconds(1)), seconds(10), "nothing is gained by haste");
        assert_eq!(time_of_a_sending(Duration::ZERO), seconds(10));
    }
}
