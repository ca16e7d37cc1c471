//! Checks that a unit of work is safe to retry.

use std::fmt::{self, Display};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::intercept::Fault;
use crate::transactor::{Ended, Options, Transactor, TransactorExt as _, Unit};
use crate::tx::UnitFn;

use super::faults::{Faults, Moment};

/// The faults that are injected at each step.
const FAULTS: [Fault; 5] = [
    Fault::SerializationFailure,
    Fault::Deadlock,
    Fault::LockTimeout,
    Fault::ConnectionLost,
    Fault::AnswerLost,
];

/// How often a run is repeated if its fault did not happen, because a real conflict ended the attempt first.
/// SQLite, for example, is busy while a connection that an earlier fault has broken is being closed. The
/// pause before each attempt grows with each repetition.
const MAX_TRIES: u32 = 8;
const PAUSE_STEP: Duration = Duration::from_millis(10);

/// A run whose number of effects does not match its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotRetrySafe {
    /// The fault and the step of the first attempt; `None` if there was none.
    pub fault: Option<(Moment, Fault)>,
    /// The fault and the step of the second attempt.
    pub second_fault: Option<(Moment, Fault)>,
    /// The outcome of the run, as text.
    pub outcome: String,
    /// The expected number of effects of this run, as a minimum and a maximum.
    pub expected: (i64, i64),
    /// The actual number of effects of this run.
    pub found: i64,
}

impl Display for NotRetrySafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Some((moment, fault)) => write!(f, "after {fault:?} at {moment:?}")?,
            None => f.write_str("without a fault")?,
        }
        if let Some((moment, fault)) = self.second_fault {
            write!(f, ", and {fault:?} at {moment:?} of the second attempt,")?;
        }
        write!(f, " the unit ended with {}; its effect was expected ", self.outcome)?;
        match self.expected {
            (from, to) if from == to => write!(f, "{from} times")?,
            (from, to) => write!(f, "{from} or {to} times")?,
        }
        write!(f, ", and found {} times", self.found)
    }
}

/// Asserts that a unit of work is safe to retry: runs it with each fault at each of its steps in turn, and
/// counts its effects.
///
/// `count` returns the total number of effects: rows of a ledger, a counter, messages at a fake mail server.
/// A run that succeeds must add one, a run that fails must add none, and a run whose commit is
/// [unknown](Error::is_commit_unknown) may add one or none. This detects effects outside of the transaction,
/// because they happen once per attempt.
///
/// Faults are also injected into second attempts: for each fault that was retried, the unit runs with that
/// fault at the last step where it was retried, combined with each fault at each step of the second attempt.
///
/// A unit that does not commit without a fault, or that is never retried, fails the check, because it would
/// prove nothing.
///
/// Returns the number of injected faults.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::assert_retry_safe;
/// use atomically::{Error, Pessimistic};
///
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect("sqlite::memory:").await?;
/// sqlx::query("CREATE TABLE ledger (amount INTEGER)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
///
/// let faults = assert_retry_safe(
///     &db,
///     async |tx| -> Result<_, Error> {
///         sqlx::query("INSERT INTO ledger VALUES (5)").execute(&mut *tx).await?;
///         Ok(())
///     },
///     || async { sqlx::query_scalar("SELECT COUNT(*) FROM ledger").fetch_one(&pool).await },
/// )
/// .await;
/// assert!(faults >= 15, "five at BEGIN, at the statement and at COMMIT, and more in second attempts");
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// # Panics
///
/// With the [`RetryCheckError`] that [`check_retry_safe`] returns.
pub async fn assert_retry_safe<DB, X, F, T, E, C, Fut, N>(transactor: &X, unit: F, count: C) -> usize
where
    DB: Backend,
    X: Transactor<DB> + ?Sized,
    F: UnitFn<DB, T, E>,
    T: Send,
    E: From<Error> + Send,
    C: Fn() -> Fut,
    Fut: Future<Output = Result<i64, N>>,
    N: Display,
{
    match check_retry_safe(transactor, unit, count).await {
        Ok(faults) => faults,
        #[expect(clippy::panic, reason = "it asserts")]
        Err(error) => panic!("the unit is not shown to be safe to retry: {error}"),
    }
}

/// Why a retry check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryCheckError {
    /// The number of effects does not match the outcome of a run.
    #[error("{0}")]
    NotSafe(NotRetrySafe),
    /// The `count` function failed.
    #[error("could not count the effects: {0}")]
    NotCounted(String),
    /// A run did not reach the step of its fault, because the unit does not take the same steps each time.
    #[error("{1:?} at {0:?} could not be injected, because the unit does not take the same steps each time")]
    NotReached(Moment, Fault),
    /// The unit does not commit even without a fault, so it has no effects to count.
    #[error("nothing was checked, because the unit does not commit even without a fault: it ended with {0}")]
    NotCommitted(String),
    /// The transactor did not retry the unit after any fault.
    #[error(
        "nothing was checked, because the unit was never retried; give the transactor more than one attempt, \
         and a strategy that retries"
    )]
    NeverRetried,
    /// No fault could be injected, because the transactor ignores the options that it is given.
    #[error(
        "nothing was checked, because the transactor ignores the options that it is given, so no fault can \
         be injected"
    )]
    OptionsIgnored,
}

/// Checks what [`assert_retry_safe`] asserts, and returns the result.
///
/// # Errors
///
/// Returns the first run whose effects do not match its outcome, or the reason why the check could not be
/// made.
pub async fn check_retry_safe<DB, X, F, T, E, C, Fut, N>(
    transactor: &X,
    unit: F,
    count: C,
) -> Result<usize, RetryCheckError>
where
    DB: Backend,
    X: Transactor<DB> + ?Sized,
    F: UnitFn<DB, T, E>,
    T: Send,
    E: From<Error> + Send,
    C: Fn() -> Fut,
    Fut: Future<Output = Result<i64, N>>,
    N: Display,
{
    let counted = || async { count().await.map_err(|error| RetryCheckError::NotCounted(error.to_string())) };
    let check = RetrySafetyCheck { transactor, unit: &unit, count: counted };
    let none = Faults::new();
    if let Some(outcome) = check.run(none.options(), InjectedFaults::default()).await? {
        return Err(RetryCheckError::NotCommitted(outcome));
    }
    let steps = none.reached_in(1);
    if steps.is_empty() {
        return Err(RetryCheckError::OptionsIgnored);
    }
    let mut injected = 0;
    let mut retried = Vec::new();
    for fault in each_fault(&steps) {
        let second_attempt = check.run_with(InjectedFaults { first: Some(fault), second: None }).await?;
        injected += 1;
        retried.extend((!second_attempt.is_empty()).then_some((fault, second_attempt)));
    }
    if retried.is_empty() {
        return Err(RetryCheckError::NeverRetried);
    }
    for (first, steps) in distinct_second_attempts(retried) {
        for second in each_fault(&steps) {
            check.run_with(InjectedFaults { first: Some(first), second: Some(second) }).await?;
            injected += 2;
        }
    }
    Ok(injected)
}

type InjectedFault = (Moment, Fault);

fn each_fault(steps: &[Moment]) -> impl Iterator<Item = InjectedFault> + use<'_> {
    steps.iter().flat_map(|moment| FAULTS.map(|fault| (*moment, fault)))
}

type SecondAttempt = (InjectedFault, Vec<Moment>);

/// Returns, of the first faults of the same kind that lead to the same steps of the second attempt, the last
/// one.
fn distinct_second_attempts(retried: Vec<SecondAttempt>) -> Vec<SecondAttempt> {
    let mut distinct: Vec<SecondAttempt> = Vec::new();
    for (first, steps) in retried {
        match distinct.iter_mut().find(|(other, others)| other.1 == first.1 && *others == steps) {
            Some(same) => same.0 = first,
            None => distinct.push((first, steps)),
        }
    }
    distinct
}

/// The faults of the first and second attempt of a run.
#[derive(Debug, Clone, Copy, Default)]
struct InjectedFaults {
    first: Option<InjectedFault>,
    second: Option<InjectedFault>,
}

impl InjectedFaults {
    fn plan(self) -> Faults {
        let faults = (1..).zip([self.first, self.second]);
        faults.fold(Faults::new(), |plan, (attempt, fault)| match fault {
            Some((moment, fault)) => plan.in_attempt(attempt, moment, fault),
            None => plan,
        })
    }
}

struct RetrySafetyCheck<'a, X: ?Sized, F, C> {
    transactor: &'a X,
    unit: &'a F,
    count: C,
}

impl<X: ?Sized, F, C> RetrySafetyCheck<'_, X, F, C> {
    /// Runs the unit with these faults. Returns the steps of its second attempt.
    async fn run_with<DB, T, E, Fut>(&self, injected: InjectedFaults) -> Result<Vec<Moment>, RetryCheckError>
    where
        DB: Backend,
        X: Transactor<DB>,
        F: UnitFn<DB, T, E>,
        T: Send,
        E: From<Error> + Send,
        C: Fn() -> Fut,
        Fut: Future<Output = Result<i64, RetryCheckError>>,
    {
        let Some((moment, fault)) = injected.second.or(injected.first) else { return Ok(Vec::new()) };
        for tries in 0..MAX_TRIES {
            let faults = injected.plan();
            let pause = PAUSE_STEP * tries;
            sleep(pause).await;
            let options = match tries {
                0 => faults.options(),
                _ => faults.options().backoff(Backoff::exponential(pause, pause).equal_jitter()),
            };
            self.run(options, injected).await?;
            if faults.pending() == 0 {
                return Ok(faults.reached_in(2));
            }
        }
        Err(RetryCheckError::NotReached(moment, fault))
    }

    /// Runs the unit once and compares its effects with its outcome. Returns the outcome unless it committed.
    async fn run<DB, T, E, Fut>(
        &self,
        options: Options,
        injected: InjectedFaults,
    ) -> Result<Option<String>, RetryCheckError>
    where
        DB: Backend,
        X: Transactor<DB>,
        F: UnitFn<DB, T, E>,
        T: Send,
        E: From<Error> + Send,
        C: Fn() -> Fut,
        Fut: Future<Output = Result<i64, RetryCheckError>>,
    {
        let before = (self.count)().await?;
        let recorder = OutcomeRecorder { transactor: self.transactor, outcome: Mutex::new(None) };
        let _ = recorder.with(options).run(self.unit.clone()).await;
        let found = (self.count)().await? - before;
        let recorded = recorder.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (outcome, expected) = match recorded {
            Some(Ok(Ended::Committed)) => (String::from("a commit"), (1, 1)),
            Some(Ok(Ended::RolledBack)) => (String::from("an error of its own"), (0, 0)),
            Some(Err((error, true))) => (error, (0, 1)),
            Some(Err((error, false))) => (error, (0, 0)),
            None => (String::from("no outcome"), (0, 0)),
        };
        if (expected.0..=expected.1).contains(&found) {
            return Ok((expected != (1, 1)).then_some(outcome));
        }
        let InjectedFaults { first: fault, second: second_fault } = injected;
        Err(RetryCheckError::NotSafe(NotRetrySafe { fault, second_fault, outcome, expected, found }))
    }
}

/// A transactor that records the outcome of a run, independently of the unit's error type.
struct OutcomeRecorder<'a, X: ?Sized> {
    transactor: &'a X,
    /// An error is recorded as text, with whether the commit is unknown.
    outcome: Mutex<Option<Result<Ended, (String, bool)>>>,
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for OutcomeRecorder<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        let result = self.transactor.transact(options, unit).await;
        let outcome = match &result {
            Ok(ended) => Ok(*ended),
            Err(error) => Err((error.to_string(), error.is_commit_unknown())),
        };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        result
    }
}
