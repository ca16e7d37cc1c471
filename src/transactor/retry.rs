//! The retry loop: the only one that runs units and single statements again.

use std::pin::pin;

use tokio::time::Instant;

use crate::error::Error;
use crate::events::Run;
use crate::failure::{ConstraintKind, Failure, FailureKind};
use crate::isolation::Access;
use crate::strategy::{Attempt, Strategy, Verdict};
use crate::telemetry::{RunClock, counted, within};
use crate::tx::has_given_way;

use super::deadline::Timer;
use super::deadlock_line::COSTLY;
use super::lines::{Lines, Standing, behind_others, behind_victims};
use super::options::Options;
use super::tries::{AttemptOutcome, GiveUpWith, Retryable};

/// Tries until it is done, may not be tried again, or has used up what it was granted.
pub(super) async fn run_with_retries<X: Retryable>(
    strategy: &dyn Strategy,
    lines: Lines<'_>,
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
    let mut timer = Timer::start(options.time(), observation);
    within(span, || observed(strategy, lines, options, work, &mut timer)).await
}

/// Tells those who watch how it ended.
async fn observed<X: Retryable>(
    strategy: &dyn Strategy,
    lines: Lines<'_>,
    options: &Options,
    work: &mut X,
    timer: &mut Timer,
) -> Result<X::Output, Error> {
    let result = attempts(strategy, lines, options, work, timer).await;
    if let (Ok(_), Some(budget)) = (&result, options.budget()) {
        budget.deposit();
    }
    // Whatever ended the run: as long as an earlier commit may have been stored, that is what its caller must
    // know.
    let result = match (result, work.unresolved()) {
        (Err(error), Some(failure)) => Err(error.about_commit(failure)),
        (result, _) => result,
    };
    let result = result.map_err(|error| error.of_run(options.label()));
    work.ended(timer).await;
    timer.tell(|observation| match &result {
        Ok(output) => observation.ended(X::outcome(output), None),
        Err(error) => observation.ended(error.into(), Some(error)),
    });
    result
}

/// The connection, and the permit at the gate, have been given back before any delay begins.
async fn attempts<X: Retryable>(
    strategy: &dyn Strategy,
    lines: Lines<'_>,
    options: &Options,
    work: &mut X,
    timer: &mut Timer,
) -> Result<X::Output, Error> {
    let clock = timer.clock;
    let mut unique_retries = options.unique_retries();
    let mut delays = None;
    let mut last: Option<Failure> = None;
    let mut is_victim = false;
    let mut number = 0;
    loop {
        number += 1;
        let mut attempt = Attempt { number, key: options.key(), queued: false };
        let plan = options.applied_to(strategy.plan(&attempt));
        let permit = match options.key().filter(|_| plan.gated) {
            None => None,
            Some(key) => {
                let turn = options.interceptors().while_at_gate(lines.gate.enter(key));
                match timer.at_gate(turn).await {
                    Some(Ok(permit)) => Some(permit),
                    Some(Err(full)) => return Err(Error::failed(full, Some(clock.spent(number - 1)))),
                    None => {
                        let waited = last.unwrap_or_else(still_in_line);
                        let spent = clock.spent(number - 1);
                        return Err(
                            Error::deadline_exceeded(Some(waited), spent).while_waiting("at the gate")
                        );
                    }
                }
            }
        };
        let Some(behind_victims) = behind_victims(lines, options, is_victim, timer).await else {
            let waited = last.unwrap_or_else(behind_others);
            return Err(Error::deadline_exceeded(Some(waited), clock.spent(number - 1)));
        };
        timer.tell(|observation| observation.attempt_started(number));
        let standing = Standing { permit, behind_victims };
        attempt.queued = standing.permit.as_ref().is_some_and(|permit| permit.queued);
        let begun = Instant::now();
        let server_deadline = begun + clock.server_limit();
        let span = timer.observation.as_ref().and_then(|observation| observation.attempt_span());
        let outcome = within(span, || work.attempt(plan, number, standing, timer)).await;
        timer.tell(RunClock::attempt_over);
        let (failure, otherwise, may_run_again) = match outcome {
            AttemptOutcome::Done(output) => {
                strategy.record(&attempt, None);
                return Ok(output);
            }
            AttemptOutcome::OutOfTime { failure, during } => {
                let spent = clock.spent(number);
                // What the attempt before it met says more about the cause.
                return Err(match last {
                    Some(last) => Error::deadline_exceeded(Some(last), spent),
                    None => Error::deadline_exceeded(failure, spent).while_waiting(during),
                });
            }
            AttemptOutcome::Failed { failure, otherwise } => (failure, otherwise, true),
            AttemptOutcome::Final(failure) => (failure, GiveUpWith::Failure, false),
        };
        strategy.record(&attempt, Some(&failure));
        timer.tell(|observation| observation.attempt_failed(&failure));
        // The server ended a statement on our behalf: what the attempt before it met says more about the
        // cause.
        if failure.kind() == FailureKind::StatementTimeout && Instant::now() >= server_deadline {
            return Err(Error::deadline_exceeded(last.or(Some(failure)), clock.spent(number)));
        }
        let retries_unique = may_run_again && failure.is_unique_violation() && unique_retries > 0;
        unique_retries -= u32::from(retries_unique);
        let gives_up = match failure.kind() {
            _ if !may_run_again => true,
            // Whatever the strategy says: an unknown commit is never blindly run again, but only behind its
            // fence.
            FailureKind::CommitUnknown => !failure.is_retryable(),
            // What was taken over does not come back.
            FailureKind::StaleClaim => true,
            // It is not the server that takes no writes, but the transaction that was asked to take none.
            FailureKind::ReadOnly if plan.access == Access::ReadOnly => true,
            _ => strategy.verdict(&failure) == Verdict::GiveUp,
        };
        if gives_up && !retries_unique {
            return match otherwise {
                // Its caller acts on it, whatever the unit made of it.
                GiveUpWith::Own(_) if failure.kind() == FailureKind::StaleClaim => {
                    Err(Error::failed(failure, Some(clock.spent(number))))
                }
                GiveUpWith::Own(output) => {
                    timer.tell(|observation| observation.given_up(&failure));
                    Ok(output)
                }
                GiveUpWith::Failure => Err(Error::failed(failure, Some(clock.spent(number)))),
                GiveUpWith::Swallowed => Err(Error::swallowed(failure, Some(clock.spent(number)))),
            };
        }
        if number >= options.max_attempts() {
            return Err(Error::exhausted(failure, clock.spent(number)));
        }
        let delay = delays.get_or_insert_with(|| options.delays()).next().unwrap_or_default();
        if Instant::now() + delay >= clock.deadline {
            return Err(Error::deadline_exceeded(Some(failure), clock.spent(number)));
        }
        if options.budget().is_some_and(|budget| !budget.withdraw()) {
            return Err(Error::budget_spent(failure, clock.spent(number)));
        }
        is_victim =
            has_given_way(&failure) || (failure.kind() == FailureKind::Deadlock && begun.elapsed() >= COSTLY);
        last = Some(failure);
        timer.tell(|observation| observation.backing_off(delay));
        let sleep = tokio::time::sleep(delay);
        counted(timer.observation.as_deref(), |times| &mut times.backoff, pin!(sleep)).await;
    }
}

pub(super) fn still_in_line() -> Failure {
    let message = "the unit was still waiting for its turn at the gate";
    Failure::new(FailureKind::Overloaded, message).retryable(true)
}

pub(super) fn is_unique_violation(failure: &Failure) -> bool {
    failure.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::backoff::Backoff;
    use crate::error::ErrorKind;
    use crate::events::RunOutcome;
    use crate::gate::Gate;
    use crate::sql_text::Syntax;
    use crate::strategies::Optimistic;
    use crate::strategy::Plan;

    /// Ends as it is told to, and notes when it was tried.
    struct Script {
        outcomes: VecDeque<AttemptOutcome<&'static str>>,
        tried_at: Vec<Duration>,
    }

    impl Script {
        fn new(outcomes: impl IntoIterator<Item = AttemptOutcome<&'static str>>) -> Self {
            Self { outcomes: outcomes.into_iter().collect(), tried_at: Vec::new() }
        }
    }

    impl Retryable for Script {
        type Output = &'static str;

        const SYSTEM: &'static str = "none";

        const SYNTAX: Syntax = Syntax::Sqlite;

        fn outcome(_output: &&'static str) -> RunOutcome {
            RunOutcome::Committed
        }

        async fn attempt(
            &mut self,
            _plan: Plan,
            attempt: u32,
            _standing: Standing,
            timer: &mut Timer,
        ) -> AttemptOutcome<&'static str> {
            assert_eq!(attempt as usize, self.tried_at.len() + 1);
            self.tried_at.push(timer.clock.started.elapsed());
            self.outcomes.pop_front().unwrap_or_else(conflict)
        }

        fn unresolved(&self) -> Option<Failure> {
            None
        }

        async fn ended(&mut self, _timer: &mut Timer) {}
    }

    fn conflict() -> AttemptOutcome<&'static str> {
        AttemptOutcome::failed(Failure::new(FailureKind::Deadlock, "a cycle").retryable(true))
    }

    fn options() -> Options {
        Options::new().seed(1)
    }

    async fn run_with_retries(
        strategy: &dyn Strategy,
        options: &Options,
        script: &mut Script,
    ) -> Result<&'static str, Error> {
        super::run_with_retries(strategy, Lines::at(&Gate::new()), options, script).await
    }

    #[tokio::test(start_paused = true)]
    async fn conflicts_are_tried_again_with_delays_within_their_ceilings() {
        let mut script = Script::new([conflict(), conflict(), conflict(), AttemptOutcome::Done("done")]);
        let answer = run_with_retries(&Optimistic::default(), &options(), &mut script).await;
        assert_eq!(answer.expect("the fourth attempt"), "done");
        let mut ceilings = Backoff::default().ceilings();
        for (one, next) in script.tried_at.iter().zip(&script.tried_at[1..]) {
            let ceiling = ceilings.next().expect("without end");
            // The clock of the tests moves in whole milliseconds.
            assert!(
                *next - *one <= ceiling + Duration::from_millis(1),
                "{one:?} to {next:?}, at most {ceiling:?}"
            );
        }
        assert!(script.tried_at[3] > Duration::ZERO, "no delay at all");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_run_out() {
        let mut script = Script::new([]);
        let limited = options().attempts(5);
        let error = run_with_retries(&Optimistic::default(), &limited, &mut script)
            .await
            .expect_err("always a conflict");
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!((error.attempts(), script.tried_at.len()), (Some(5), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_out_before_a_delay_that_would_not_be_lived_to_see() {
        let mut script = Script::new([]);
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(1));
        let limited = options().attempts(u32::MAX).deadline(Duration::from_secs(10)).backoff(backoff);
        let started = Instant::now();
        let error = run_with_retries(&Optimistic::default(), &limited, &mut script)
            .await
            .expect_err("always a conflict");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.is_conflict(), "the last failure is told");
        assert!(started.elapsed() <= Duration::from_secs(10));
        assert!(script.tried_at.len() > 10);
    }

    /// Even under a strategy that would.
    #[tokio::test(start_paused = true)]
    async fn an_unknown_commit_is_never_tried_again() {
        #[derive(Debug)]
        struct Reckless;
        impl Strategy for Reckless {
            fn plan(&self, _attempt: &Attempt) -> Plan {
                Plan::new(crate::Isolation::ReadCommitted)
            }
            fn verdict(&self, _failure: &Failure) -> Verdict {
                Verdict::RunAgain
            }
        }
        let mut script =
            Script::new([AttemptOutcome::failed(Failure::new(FailureKind::CommitUnknown, "silence"))]);
        let error = run_with_retries(&Reckless, &options(), &mut script).await.expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::CommitUnknown);
        assert_eq!(script.tried_at.len(), 1);
    }

    /// Whatever the failure, and whatever was asked for.
    #[tokio::test(start_paused = true)]
    async fn never_runs_again_what_may_be_stored_in_part() {
        let constraint = crate::failure::Constraint::new(ConstraintKind::Unique);
        let violation = Failure::new(FailureKind::Constraint, "taken").with_constraint(Some(constraint));
        for failure in [Failure::new(FailureKind::Deadlock, "a cycle").retryable(true), violation] {
            let mut script = Script::new([AttemptOutcome::Final(failure.clone())]);
            let asked = options().retry_unique(5);
            let error =
                run_with_retries(&Optimistic::default(), &asked, &mut script).await.expect_err("final");
            assert_eq!((error.failure(), script.tried_at.len()), (Some(&failure), 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_worth_another_attempt_is_told_as_the_unit_made_of_it() {
        let violation = || Failure::new(FailureKind::Constraint, "a duplicate");
        let own =
            AttemptOutcome::Failed { failure: violation(), otherwise: GiveUpWith::Own("its own error") };
        let answer = run_with_retries(&Optimistic::default(), &options(), &mut Script::new([own])).await;
        assert_eq!(answer.expect("what the unit said"), "its own error");

        let swallowed = AttemptOutcome::Failed { failure: violation(), otherwise: GiveUpWith::Swallowed };
        let answer =
            run_with_retries(&Optimistic::default(), &options(), &mut Script::new([swallowed])).await;
        let error = answer.expect_err("never Ok");
        assert_eq!(error.kind(), ErrorKind::Constraint);
        assert!(error.to_string().contains("returned Ok"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn unique_violations_are_tried_again_as_often_as_was_asked() {
        let violation = || {
            let constraint = crate::failure::Constraint::new(ConstraintKind::Unique);
            let failure = Failure::new(FailureKind::Constraint, "taken").with_constraint(Some(constraint));
            AttemptOutcome::Failed { failure, otherwise: GiveUpWith::Own("its own error") }
        };
        let mut script = Script::new([violation(), violation(), violation(), AttemptOutcome::Done("found")]);
        let answer = run_with_retries(&Optimistic::default(), &options().retry_unique(2), &mut script).await;
        assert_eq!((answer.expect("what the unit said"), script.tried_at.len()), ("its own error", 3));

        let mut script = Script::new([violation(), AttemptOutcome::Done("found")]);
        let answer = run_with_retries(&Optimistic::default(), &options().retry_unique(1), &mut script).await;
        assert_eq!(answer.expect("the second attempt"), "found");
    }

    #[tokio::test(start_paused = true)]
    async fn nowait_is_told_at_once() {
        let refused = Failure::new(FailureKind::LockNotAvailable, "held").retryable(true);
        let mut script = Script::new([AttemptOutcome::failed(refused)]);
        let error =
            run_with_retries(&Optimistic::default(), &options(), &mut script).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::LockNotAvailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_beyond_all_time_is_none() {
        let endless = options().deadline(Duration::MAX);
        let answer = run_with_retries(
            &Optimistic::default(),
            &endless,
            &mut Script::new([AttemptOutcome::Done("done")]),
        )
        .await;
        assert_eq!(answer.expect("done"), "done");
    }
}
