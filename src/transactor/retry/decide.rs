//! Decides what follows an attempt, without I/O and without a clock.

use crate::error::{Error, Spent};
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::strategy::{Plan, Verdict};
use crate::transactor::retryable::{AttemptOutcome, GiveUpWith};

/// What a run has used up by the end of an attempt.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    pub(super) spent: Spent,
    pub(super) max_attempts: u32,
    /// The retries after a unique violation that are left.
    pub(super) unique_retries: u32,
    /// Whether the deadline that was given to the server for the attempt's statements has passed.
    pub(super) past_server_deadline: bool,
    /// The failure of the attempt before this one.
    pub(super) last: Option<Failure>,
}

/// What the retry loop does after an attempt.
#[derive(Debug)]
pub(super) enum NextStep<T> {
    Return(T),
    /// Return the unit's own result, despite a failure that is not retried.
    ReturnDespite {
        output: T,
        failure: Failure,
    },
    Fail(Error),
    Retry {
        failure: Failure,
        /// Whether this uses up one of the retries after a unique violation.
        is_unique_retry: bool,
    },
}

/// Decides what follows an attempt with this outcome. Calls `usage` only if the attempt has failed, and the
/// strategy's `verdict` only if the strategy may decide.
pub(super) fn decide<T>(
    outcome: AttemptOutcome<T>,
    plan: &Plan,
    usage: impl FnOnce() -> Usage,
    verdict: impl FnOnce(&Failure) -> Verdict,
) -> NextStep<T> {
    let (failure, give_up_with, may_retry) = match outcome {
        AttemptOutcome::Done(output) => return NextStep::Return(output),
        AttemptOutcome::OutOfTime { failure, during } => {
            let Usage { spent, last, .. } = usage();
            // The failure of the attempt before this one says more about the cause.
            return NextStep::Fail(match last {
                Some(last) => Error::deadline_exceeded(Some(last), spent),
                None => Error::deadline_exceeded(failure, spent).while_waiting(during),
            });
        }
        AttemptOutcome::Failed { failure, give_up_with } => (failure, give_up_with, true),
        AttemptOutcome::Final(failure) => (failure, GiveUpWith::Failure, false),
    };
    let Usage { spent, max_attempts, unique_retries, past_server_deadline, last } = usage();
    // The server ended the statement because of the deadline that it was given.
    if failure.kind() == FailureKind::StatementTimeout && past_server_deadline {
        return NextStep::Fail(Error::deadline_exceeded(last.or(Some(failure)), spent));
    }
    let is_unique_retry = may_retry && unique_retries > 0 && failure.is_unique_violation();
    if !is_unique_retry && (!may_retry || gives_up(&failure, plan, verdict)) {
        return give_up(failure, give_up_with, spent);
    }
    if spent.attempts >= max_attempts {
        return NextStep::Fail(Error::exhausted(failure, spent));
    }
    NextStep::Retry { failure, is_unique_retry }
}

fn gives_up(failure: &Failure, plan: &Plan, verdict: impl FnOnce(&Failure) -> Verdict) -> bool {
    match failure.kind() {
        // Whatever the strategy says: after an unknown commit, only an attempt that can detect the earlier
        // one may run.
        FailureKind::CommitUnknown => !failure.is_retryable(),
        // Another worker has taken over the claim, and no retry can regain it.
        FailureKind::StaleClaim => true,
        // The transaction was opened read-only; another server would refuse the write as well.
        FailureKind::ReadOnly if plan.access == Access::ReadOnly => true,
        _ => verdict(failure) == Verdict::GiveUp,
    }
}

fn give_up<T>(failure: Failure, give_up_with: GiveUpWith<T>, spent: Spent) -> NextStep<T> {
    match give_up_with {
        // The worker acts on a stale claim, whatever the unit returned.
        GiveUpWith::Own(_) if failure.kind() == FailureKind::StaleClaim => {
            NextStep::Fail(Error::failed(failure, Some(spent)))
        }
        GiveUpWith::Own(output) => NextStep::ReturnDespite { output, failure },
        GiveUpWith::Failure => NextStep::Fail(Error::failed(failure, Some(spent))),
        GiveUpWith::Swallowed => NextStep::Fail(Error::swallowed(failure, Some(spent))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;
    use crate::failure::{Constraint, ConstraintKind};
    use crate::isolation::Isolation;

    #[derive(Debug, PartialEq)]
    enum Seen {
        Return,
        ReturnDespite(FailureKind),
        Fail(ErrorKind, Option<FailureKind>),
        Retry { is_unique_retry: bool },
    }

    fn failure(kind: FailureKind) -> Failure {
        Failure::new(kind, "it failed")
    }

    fn violation() -> Failure {
        failure(FailureKind::Constraint).with_constraint(Some(Constraint::new(ConstraintKind::Unique)))
    }

    fn failed(failure: Failure) -> AttemptOutcome<()> {
        AttemptOutcome::failed(failure)
    }

    fn own(failure: Failure) -> AttemptOutcome<()> {
        AttemptOutcome::Failed { failure, give_up_with: GiveUpWith::Own(()) }
    }

    fn usage() -> Usage {
        Usage {
            spent: Spent { attempts: 2, elapsed: Duration::ZERO },
            max_attempts: 3,
            unique_retries: 0,
            past_server_deadline: false,
            last: None,
        }
    }

    /// The case, the outcome of the attempt, what the run has used up, the strategy's verdict, and what
    /// follows.
    type Row = (&'static str, AttemptOutcome<()>, Usage, Verdict, Seen);

    fn rows() -> Vec<Row> {
        use FailureKind::{CommitUnknown, Constraint, Deadlock, ReadOnly, StaleClaim, StatementTimeout};
        use Seen::{Fail, Retry, Return, ReturnDespite};
        use Verdict::{GiveUp, RunAgain};

        let unique = || Usage { unique_retries: 1, ..usage() };
        let after_deadlock = || Usage { last: Some(failure(Deadlock)), ..usage() };
        let late = || Usage { past_server_deadline: true, ..usage() };
        let spent = || Usage { max_attempts: 2, ..usage() };
        let timed_out = || AttemptOutcome::OutOfTime { failure: None, during: "for a test" };
        let swallowed = AttemptOutcome::Failed { failure: violation(), give_up_with: GiveUpWith::Swallowed };
        let out_of_time = ErrorKind::DeadlineExceeded;
        let plain = Retry { is_unique_retry: false };
        let paid = || Retry { is_unique_retry: true };
        vec![
            ("done", AttemptOutcome::Done(()), usage(), GiveUp, Return),
            ("out of time", timed_out(), usage(), RunAgain, Fail(out_of_time, None)),
            ("an earlier cause", timed_out(), after_deadlock(), RunAgain, Fail(out_of_time, Some(Deadlock))),
            ("retried", failed(failure(Deadlock)), usage(), RunAgain, plain),
            (
                "exhausted",
                failed(failure(Deadlock)),
                spent(),
                RunAgain,
                Fail(ErrorKind::Exhausted, Some(Deadlock)),
            ),
            (
                "given up",
                failed(failure(Deadlock)),
                usage(),
                GiveUp,
                Fail(ErrorKind::Conflict, Some(Deadlock)),
            ),
            ("the unit's own error", own(violation()), usage(), GiveUp, ReturnDespite(Constraint)),
            ("hidden by the unit", swallowed, usage(), GiveUp, Fail(ErrorKind::Constraint, Some(Constraint))),
            ("a unique retry", own(violation()), unique(), GiveUp, paid()),
            (
                "a unique retry beyond the limit",
                own(violation()),
                Usage { unique_retries: 1, ..spent() },
                GiveUp,
                Fail(ErrorKind::Exhausted, Some(Constraint)),
            ),
            (
                "final",
                AttemptOutcome::Final(violation()),
                unique(),
                RunAgain,
                Fail(ErrorKind::Constraint, Some(Constraint)),
            ),
            (
                "an unknown commit",
                failed(failure(CommitUnknown)),
                usage(),
                RunAgain,
                Fail(ErrorKind::CommitUnknown, Some(CommitUnknown)),
            ),
            (
                "an unknown commit that can be detected",
                failed(failure(CommitUnknown).retryable(true)),
                usage(),
                GiveUp,
                Retry { is_unique_retry: false },
            ),
            (
                "a stale claim",
                own(failure(StaleClaim)),
                usage(),
                RunAgain,
                Fail(ErrorKind::StaleClaim, Some(StaleClaim)),
            ),
            (
                "a server that is read-only",
                failed(failure(ReadOnly)),
                usage(),
                RunAgain,
                Retry { is_unique_retry: false },
            ),
            (
                "a statement timeout of its own",
                failed(failure(StatementTimeout)),
                usage(),
                GiveUp,
                Fail(ErrorKind::StatementTimeout, Some(StatementTimeout)),
            ),
            (
                "a statement timeout at the deadline",
                failed(failure(StatementTimeout)),
                late(),
                RunAgain,
                Fail(out_of_time, Some(StatementTimeout)),
            ),
        ]
    }

    fn seen(next: NextStep<()>) -> Seen {
        match next {
            NextStep::Return(()) => Seen::Return,
            NextStep::ReturnDespite { failure, .. } => Seen::ReturnDespite(failure.kind()),
            NextStep::Fail(error) => Seen::Fail(error.kind(), error.failure().map(Failure::kind)),
            NextStep::Retry { is_unique_retry, .. } => Seen::Retry { is_unique_retry },
        }
    }

    #[test]
    fn each_outcome_has_its_next_step() {
        let plan = Plan::new(Isolation::ReadCommitted);
        for (case, outcome, usage, verdict, expected) in rows() {
            assert_eq!(seen(decide(outcome, &plan, || usage, |_| verdict)), expected, "{case}");
        }
    }

    #[test]
    fn a_write_in_a_read_only_plan_is_not_retried() {
        let plan = Plan { access: Access::ReadOnly, ..Plan::new(Isolation::ReadCommitted) };
        let next = decide(failed(failure(FailureKind::ReadOnly)), &plan, usage, |_| Verdict::RunAgain);
        assert_eq!(seen(next), Seen::Fail(ErrorKind::ReadOnly, Some(FailureKind::ReadOnly)));
    }
}
