//! The retry loop, the only one that repeats units and single statements.

use std::time::Duration;

use tokio::time::Instant;

use crate::boxed::boxed;
use crate::error::Error;
use crate::events::Run;
use crate::failure::{Failure, FailureKind};
use crate::strategy::{Attempt, Plan, Strategy};
use crate::telemetry::{RunClock, counted, within};
use crate::tx::has_given_way;

use super::deadline::Timer;
use super::deadlock_queue::COSTLY_DEADLOCK;
use super::options::Options;
use super::retryable::{AttemptOutcome, Retryable};
use super::waiting::{Permits, WaitingQueues, deadlock_permit, waiting_at_gate, waiting_behind_victims};

mod decide;
#[cfg(test)]
mod tests;

use decide::{NextStep, Usage, decide};

/// Runs `work` until it succeeds, fails permanently, or has used up its attempts, its time or its retry
/// budget.
pub(super) async fn run_with_retries<X: Retryable>(
    strategy: &dyn Strategy,
    queues: WaitingQueues<'_>,
    options: &Options,
    work: &mut X,
) -> Result<X::Output, Error> {
    let observation = RunClock::start(options.observers(), options.idle_limit(), X::SYNTAX, |id| Run {
        id,
        name: options.name(),
        strategy: strategy.name(),
        database: X::SYSTEM,
        location: options.location(),
    });
    let span = observation.as_ref().and_then(|observation| observation.span());
    let mut timer = Timer::start(options, observation);
    within(span, || boxed(|| observed(strategy, queues, options, work, &mut timer))).await
}

/// Runs the attempts, and reports the end of the run to the observers.
async fn observed<X: Retryable>(
    strategy: &dyn Strategy,
    queues: WaitingQueues<'_>,
    options: &Options,
    work: &mut X,
    timer: &mut Timer,
) -> Result<X::Output, Error> {
    let result = attempts(strategy, queues, options, work, timer).await;
    if let (Ok(_), Some(budget)) = (&result, options.budget()) {
        budget.deposit();
    }
    // Whatever ended the run, the caller must learn of an earlier commit that may have been stored.
    let result = match (result, work.unresolved()) {
        (Err(error), Some(failure)) => Err(error.about_commit(failure)),
        (result, _) => result,
    };
    let result = result.map_err(|error| error.of_run(options.label()));
    work.ended(timer).await;
    timer.notify(|observation| match &result {
        Ok(output) => observation.ended(X::outcome(output), None),
        Err(error) => observation.ended(error.into(), Some(error)),
    });
    result
}

/// Runs attempts until one of them decides the outcome. Each attempt releases its connection and its permits
/// before the delay begins.
async fn attempts<X: Retryable>(
    strategy: &dyn Strategy,
    queues: WaitingQueues<'_>,
    options: &Options,
    work: &mut X,
    timer: &mut Timer,
) -> Result<X::Output, Error> {
    let mut retries = Retries::new(options);
    loop {
        retries.attempts += 1;
        let mut attempt = Attempt { number: retries.attempts, key: options.key(), queued: false };
        let plan = options.applied_to(strategy.plan(&attempt));
        let permits = wait_for_permits(queues, options, &plan, &mut retries, timer).await?;
        timer.notify(|observation| observation.attempt_started(attempt.number));
        attempt.queued = permits.gate.as_ref().is_some_and(|permit| permit.queued);
        let begun = Instant::now();
        let server_deadline = begun + timer.clock.server_limit_at(begun);
        let span = timer.observation.as_ref().and_then(|observation| observation.attempt_span());
        let outcome = within(span, || work.attempt(plan, attempt.number, permits, timer)).await;
        timer.notify(RunClock::attempt_over);
        record(strategy, &attempt, &outcome, timer);
        let usage = || Usage {
            spent: timer.clock.spent(attempt.number),
            max_attempts: options.max_attempts(),
            unique_retries: retries.unique_retries,
            past_server_deadline: Instant::now() >= server_deadline,
            last: retries.last.take().map(|failure| *failure),
        };
        let failure = match decide(outcome, &plan, usage, |failure| strategy.verdict(failure)) {
            NextStep::Return(output) => return Ok(output),
            NextStep::ReturnDespite { output, failure } => {
                timer.notify(|observation| observation.given_up(&failure));
                return Ok(output);
            }
            NextStep::Fail(error) => return Err(error),
            NextStep::Retry { failure, is_unique_retry } => {
                retries.unique_retries -= u32::from(is_unique_retry);
                failure
            }
        };
        let (delay, failure) = retries.pay(failure, timer)?;
        retries.is_victim = has_given_way(&failure)
            || (failure.kind() == FailureKind::Deadlock && begun.elapsed() >= COSTLY_DEADLOCK);
        retries.last = Some(Box::new(failure));
        timer.notify(|observation| observation.backing_off(delay));
        // Boxed, because most runs do not back off.
        let sleep = Box::pin(tokio::time::sleep(delay));
        counted(timer.observation.as_deref(), |times| &mut times.backoff, sleep).await;
    }
}

/// Tells the strategy and the observers how an attempt ended.
fn record<T>(strategy: &dyn Strategy, attempt: &Attempt, outcome: &AttemptOutcome<T>, timer: &Timer) {
    match outcome {
        AttemptOutcome::Done(_) => strategy.record(attempt, None),
        AttemptOutcome::OutOfTime { .. } => {}
        AttemptOutcome::Failed { failure, .. } | AttemptOutcome::Final(failure) => {
            strategy.record(attempt, Some(failure));
            timer.notify(|observation| observation.attempt_failed(failure));
        }
    }
}

/// Waits at the gate, and behind the victims of deadlocks, until the deadline.
async fn wait_for_permits(
    queues: WaitingQueues<'_>,
    options: &Options,
    plan: &Plan,
    retries: &mut Retries<'_>,
    timer: &mut Timer,
) -> Result<Permits, Error> {
    let clock = timer.clock;
    // The attempt that waits for its permits does not count yet.
    let attempts = retries.attempts - 1;
    let gate = match options.key().filter(|_| plan.gated) {
        None => None,
        Some(key) => {
            // Boxed, because in place it would enlarge the future of every run.
            let entering = boxed(|| options.interceptors().while_at_gate(queues.gate.enter(key)));
            match timer.at_gate(entering).await {
                Some(Ok(permit)) => Some(permit),
                Some(Err(full)) => return Err(Error::failed(full, Some(clock.spent(attempts)))),
                None => {
                    let cause = retries.last.take().map_or_else(waiting_at_gate, |failure| *failure);
                    let error = Error::deadline_exceeded(Some(cause), clock.spent(attempts));
                    return Err(error.while_waiting("at the gate"));
                }
            }
        }
    };
    match deadlock_permit(queues, options, retries.is_victim, timer).await {
        Some(deadlock) => Ok(Permits { gate, deadlock }),
        None => {
            let cause = retries.last.take().map_or_else(waiting_behind_victims, |failure| *failure);
            Err(Error::deadline_exceeded(Some(cause), clock.spent(attempts)))
        }
    }
}

/// What a run remembers from one attempt to the next.
struct Retries<'a> {
    options: &'a Options,
    attempts: u32,
    unique_retries: u32,
    /// Created with the first retry, because most runs have none.
    delays: Option<Box<dyn Iterator<Item = Duration> + Send>>,
    /// Boxed, because most runs have none.
    last: Option<Box<Failure>>,
    /// Whether the last attempt was the victim of a costly deadlock, or gave way to such victims.
    is_victim: bool,
}

impl<'a> Retries<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            attempts: 0,
            unique_retries: options.unique_retries(),
            delays: None,
            last: None,
            is_victim: false,
        }
    }

    /// Withdraws a retry from the retry budget, if there is time for it before the deadline, and returns the
    /// delay before it.
    fn pay(&mut self, failure: Failure, timer: &Timer) -> Result<(Duration, Failure), Error> {
        let options = self.options;
        let delays = self.delays.get_or_insert_with(|| Box::new(options.delays()));
        let delay = delays.next().unwrap_or_default();
        let spent = timer.clock.spent(self.attempts);
        if Instant::now() + delay >= timer.clock.deadline {
            return Err(Error::deadline_exceeded(Some(failure), spent));
        }
        if options.budget().is_some_and(|budget| !budget.withdraw()) {
            return Err(Error::budget_spent(failure, spent));
        }
        Ok((delay, failure))
    }
}
