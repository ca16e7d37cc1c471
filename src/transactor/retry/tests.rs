//! The retry loop, driven by scripted attempts.

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::backoff::Backoff;
use crate::error::ErrorKind;
use crate::events::RunOutcome;
use crate::failure::ConstraintKind;
use crate::gate::Gate;
use crate::sql_text::Syntax;
use crate::strategies::Optimistic;
use crate::strategy::{Plan, Verdict};
use crate::transactor::retryable::GiveUpWith;

/// Work whose attempts end as scripted, and which records when each attempt started.
struct Script {
    outcomes: VecDeque<AttemptOutcome<&'static str>>,
    started_at: Vec<Duration>,
}

impl Script {
    fn new(outcomes: impl IntoIterator<Item = AttemptOutcome<&'static str>>) -> Self {
        Self { outcomes: outcomes.into_iter().collect(), started_at: Vec::new() }
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
        _permits: Permits,
        timer: &mut Timer,
    ) -> AttemptOutcome<&'static str> {
        assert_eq!(attempt as usize, self.started_at.len() + 1);
        self.started_at.push(timer.clock.started.elapsed());
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
    super::run_with_retries(strategy, WaitingQueues::at(&Gate::new()), options, script).await
}

#[tokio::test(start_paused = true)]
async fn retries_conflicts_with_delays_within_their_ceilings() {
    let mut script = Script::new([conflict(), conflict(), conflict(), AttemptOutcome::Done("done")]);
    let result = run_with_retries(&Optimistic::default(), &options(), &mut script).await;
    assert_eq!(result.expect("the fourth attempt"), "done");
    let mut ceilings = Backoff::default().ceilings();
    for (one, next) in script.started_at.iter().zip(&script.started_at[1..]) {
        let ceiling = ceilings.next().expect("without end");
        // The clock of the tests moves in whole milliseconds.
        assert!(
            *next - *one <= ceiling + Duration::from_millis(1),
            "{one:?} to {next:?}, at most {ceiling:?}"
        );
    }
    assert!(script.started_at[3] > Duration::ZERO, "no delay at all");
}

#[tokio::test(start_paused = true)]
async fn a_unit_is_exhausted_after_its_attempts() {
    let mut script = Script::new([]);
    let limited = options().attempts(5);
    let error =
        run_with_retries(&Optimistic::default(), &limited, &mut script).await.expect_err("always a conflict");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!((error.attempts(), script.started_at.len()), (Some(5), 5));
}

#[tokio::test(start_paused = true)]
async fn no_delay_begins_that_would_end_after_the_deadline() {
    let mut script = Script::new([]);
    let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(1));
    let limited = options().attempts(u32::MAX).deadline(Duration::from_secs(10)).backoff(backoff);
    let started = Instant::now();
    let error =
        run_with_retries(&Optimistic::default(), &limited, &mut script).await.expect_err("always a conflict");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.is_conflict(), "the last failure is kept");
    assert!(started.elapsed() <= Duration::from_secs(10));
    assert!(script.started_at.len() > 10);
}

/// Holds even under a strategy that would retry.
#[tokio::test(start_paused = true)]
async fn never_retries_an_unknown_commit() {
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
    assert_eq!(script.started_at.len(), 1);
}

/// Holds whatever the failure and the options.
#[tokio::test(start_paused = true)]
async fn never_retries_what_may_be_stored_in_part() {
    let constraint = crate::failure::Constraint::new(ConstraintKind::Unique);
    let violation = Failure::new(FailureKind::Constraint, "taken").with_constraint(Some(constraint));
    for failure in [Failure::new(FailureKind::Deadlock, "a cycle").retryable(true), violation] {
        let mut script = Script::new([AttemptOutcome::Final(failure.clone())]);
        let limited = options().retry_unique(5);
        let error = run_with_retries(&Optimistic::default(), &limited, &mut script).await.expect_err("final");
        assert_eq!((error.failure(), script.started_at.len()), (Some(&failure), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_retried_is_returned_as_the_unit_converted_it() {
    let violation = || Failure::new(FailureKind::Constraint, "a duplicate");
    let own = AttemptOutcome::Failed { failure: violation(), give_up_with: GiveUpWith::Own("its own error") };
    let result = run_with_retries(&Optimistic::default(), &options(), &mut Script::new([own])).await;
    assert_eq!(result.expect("the unit's own result"), "its own error");

    let swallowed = AttemptOutcome::Failed { failure: violation(), give_up_with: GiveUpWith::Swallowed };
    let result = run_with_retries(&Optimistic::default(), &options(), &mut Script::new([swallowed])).await;
    let error = result.expect_err("never Ok");
    assert_eq!(error.kind(), ErrorKind::Constraint);
    assert!(error.to_string().contains("returned Ok"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retries_unique_violations_up_to_their_limit() {
    let violation = || {
        let constraint = crate::failure::Constraint::new(ConstraintKind::Unique);
        let failure = Failure::new(FailureKind::Constraint, "taken").with_constraint(Some(constraint));
        AttemptOutcome::Failed { failure, give_up_with: GiveUpWith::Own("its own error") }
    };
    let mut script = Script::new([violation(), violation(), violation(), AttemptOutcome::Done("found")]);
    let result = run_with_retries(&Optimistic::default(), &options().retry_unique(2), &mut script).await;
    assert_eq!((result.expect("the unit's own result"), script.started_at.len()), ("its own error", 3));

    let mut script = Script::new([violation(), AttemptOutcome::Done("found")]);
    let result = run_with_retries(&Optimistic::default(), &options().retry_unique(1), &mut script).await;
    assert_eq!(result.expect("the second attempt"), "found");
}

#[tokio::test(start_paused = true)]
async fn a_refused_nowait_is_not_retried() {
    let refused = Failure::new(FailureKind::LockNotAvailable, "held").retryable(true);
    let mut script = Script::new([AttemptOutcome::failed(refused)]);
    let error = run_with_retries(&Optimistic::default(), &options(), &mut script).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::LockNotAvailable);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_the_range_of_the_clock_is_none() {
    let endless = options().deadline(Duration::MAX);
    let result =
        run_with_retries(&Optimistic::default(), &endless, &mut Script::new([AttemptOutcome::Done("done")]))
            .await;
    assert_eq!(result.expect("done"), "done");
}
