//! The loop: the only retry and the only sleep of the crate.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Spent};
use crate::failure::{Failure, FailureKind};
use crate::policy::{Plan, Strategy, Verdict};

use super::options::Options;

/// Something that can be tried, and tried again.
pub(super) trait Trial: Send {
    type Output: Send;

    /// One attempt. It leaves neither a lock nor a connection behind, whatever it ends with.
    fn once(&mut self, plan: Plan, attempt: u32, clock: Clock) -> impl Future<Output = Outcome<Self::Output>> + Send;
}

/// What became of one attempt.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// It ended as it was wished to.
    Done(T),
    /// The database was in the way.
    Failed { failure: Failure, otherwise: Otherwise<T> },
    /// The deadline passed, perhaps with something known about what was waited for.
    OutOfTime(Option<Failure>),
}

/// What the caller is told of a failure that is not worth another attempt.
#[derive(Debug)]
pub(super) enum Otherwise<T> {
    /// The failure.
    Failure,
    /// The failure, and that the unit of work had hidden it.
    Swallowed,
    /// What the unit of work made of it.
    Own(T),
}

impl<T> Outcome<T> {
    pub(super) const fn failed(failure: Failure) -> Self {
        Self::Failed { failure, otherwise: Otherwise::Failure }
    }
}

/// The time that a run has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    pub(super) deadline: Instant,
}

impl Clock {
    fn start(limit: Duration) -> Self {
        let started = Instant::now();
        // A deadline beyond what the clock can tell is none that anybody will see pass.
        let deadline = started.checked_add(limit).unwrap_or_else(|| started + Duration::from_secs(60 * 60 * 24 * 365));
        Self { started, deadline }
    }

    fn spent(self, attempts: u32) -> Spent {
        Spent { attempts, elapsed: self.started.elapsed() }
    }

    /// What the server is told: a little less than what is left, so that its answer, which leaves the connection
    /// usable, comes before the client gives up.
    pub(super) fn server_limit(self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left - (left / 16).min(Duration::from_millis(100))
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// Tries until it is done, may not be tried again, or has used up what it was granted.
///
/// The connection has been given back before any delay begins.
pub(super) async fn until_done<X: Trial>(
    strategy: &dyn Strategy,
    options: &Options,
    trial: &mut X,
) -> Result<X::Output, Error> {
    let clock = Clock::start(options.deadline);
    let mut delays = None;
    let mut last = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let server_deadline = Instant::now() + clock.server_limit();
        let (failure, otherwise) = match trial.once(strategy.plan(attempt), attempt, clock).await {
            Outcome::Done(output) => return Ok(output),
            Outcome::OutOfTime(failure) => {
                return Err(Error::deadline_exceeded(last.or(failure), clock.spent(attempt)));
            }
            Outcome::Failed { failure, otherwise } => (failure, otherwise),
        };
        // The server ended a statement on our behalf.
        if failure.kind() == FailureKind::StatementTimeout && Instant::now() >= server_deadline {
            return Err(Error::deadline_exceeded(Some(failure), clock.spent(attempt)));
        }
        // Whatever the strategy says: an unknown commit is never blindly run again.
        let gives_up = failure.kind() == FailureKind::CommitUnknown || strategy.verdict(&failure) == Verdict::GiveUp;
        if gives_up {
            return match otherwise {
                Otherwise::Own(output) => Ok(output),
                Otherwise::Failure => Err(Error::failed(failure, Some(clock.spent(attempt)))),
                Otherwise::Swallowed => Err(Error::swallowed(failure, clock.spent(attempt))),
            };
        }
        if attempt >= options.attempts {
            return Err(Error::exhausted(failure, clock.spent(attempt)));
        }
        let delay = delays.get_or_insert_with(|| options.delays()).next().unwrap_or_default();
        if Instant::now() + delay >= clock.deadline {
            return Err(Error::deadline_exceeded(Some(failure), clock.spent(attempt)));
        }
        last = Some(failure);
        tokio::time::sleep(delay).await;
    }
}
