//! The contract between the retry loop and the work that it runs.

use std::future::Future;

use super::deadline::Timer;
use super::waiting::Permits;
use crate::events::RunOutcome;
use crate::failure::Failure;
use crate::sql_text::Syntax;
use crate::strategy::Plan;

/// Work that the retry loop runs: a unit of work, or a single statement.
pub(super) trait Retryable: Send {
    type Output: Send;

    /// The name of the database in events and metrics.
    const SYSTEM: &'static str;

    /// The dialect in which its statements are parsed.
    const SYNTAX: Syntax;

    /// Returns the outcome that observers see for this output.
    fn outcome(output: &Self::Output) -> RunOutcome;

    /// Runs one attempt. When it ends, whatever its outcome, it has released its locks, its connection and
    /// its permits.
    fn attempt(
        &mut self,
        plan: Plan,
        attempt: u32,
        permits: Permits,
        timer: &mut Timer,
    ) -> impl Future<Output = AttemptOutcome<Self::Output>> + Send;

    /// The failure of an earlier commit whose outcome is still unknown.
    fn unresolved(&self) -> Option<Failure>;

    /// Called once, after the last attempt.
    fn ended(&mut self, timer: &mut Timer) -> impl Future<Output = ()> + Send;
}

/// How one attempt ended.
#[derive(Debug)]
pub(super) enum AttemptOutcome<T> {
    /// The attempt committed or rolled back, as its unit decided.
    Done(T),
    /// The database reported a failure; the strategy decides whether to retry.
    Failed { failure: Failure, give_up_with: GiveUpWith<T> },
    /// The attempt failed and must not be retried, whatever the strategy says: part of it may be stored.
    Final(Failure),
    /// The deadline passed while the attempt waited `during` something, possibly for a known reason.
    OutOfTime { failure: Option<Failure>, during: &'static str },
}

/// What the run returns for a failure that is not retried.
#[derive(Debug)]
pub(super) enum GiveUpWith<T> {
    /// The failure.
    Failure,
    /// The failure, with a note that the unit of work returned `Ok` in spite of it.
    Swallowed,
    /// The unit's own result.
    Own(T),
}

impl<T> AttemptOutcome<T> {
    pub(super) const fn failed(failure: Failure) -> Self {
        Self::Failed { failure, give_up_with: GiveUpWith::Failure }
    }

    pub(super) const fn out_of_time(during: &'static str, failure: Failure) -> Self {
        Self::OutOfTime { failure: Some(failure), during }
    }
}
