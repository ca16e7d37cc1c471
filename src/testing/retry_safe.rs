//! Is a unit of work safe to run again?

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

/// Everything that can go wrong with a statement, and with a commit.
const FAULTS: [Fault; 5] = [
    Fault::SerializationFailure,
    Fault::Deadlock,
    Fault::LockTimeout,
    Fault::ConnectionLost,
    Fault::AnswerLost,
];

/// How often a run is begun again in which a fault did not happen. A conflict that is real may have ended the
/// attempt before its time: SQLite reports one while the connection that an earlier fault has broken is being
/// closed. So there is a longer pause before each attempt each time.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// A run in which a unit's effect was not there as often as its outcome says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotRetrySafe {
    /// What went wrong, and at which step; `None` when nothing did.
    pub fault: Option<(Moment, Fault)>,
    /// What went wrong in the second attempt, and at which step.
    pub second_fault: Option<(Moment, Fault)>,
    /// How the unit ended.
    pub outcome: String,
    /// How often the effect was to be there in the end: from, and to.
    pub expected: (i64, i64),
    /// How often it was there.
    pub found: i64,
}

impl Display for NotRetrySafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Some((moment, fault)) => write!(f, "after {fault:?} at {moment:?}")?,
            None => f.write_str("without any fault")?,
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

/// Checks that a unit of work can be run again: runs it with each fault at each of its steps in turn, and
/// counts its effects.
///
/// `count` returns how often the effect is there, in all: rows of a ledger, a counter, messages at a fake
/// mail server. Each run that succeeds must add one to it, each that fails must add nothing, and only one
/// whose commit is [unknown](Error::is_commit_unknown) may do either. So what a unit does outside of its
/// transaction is found out: it happens once for each attempt.
///
/// The second attempt gets its faults too: for each fault of the first attempt that the unit was run again
/// after, the unit is run with that fault at the last step where it is retried, and with each fault at each
/// step of the second attempt.
///
/// The check fails where it would show nothing: the unit does not commit without a fault, or no fault has it
/// run again.
///
/// Returns how many faults there were.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::assert_retry_safe;
/// use atomically::{Error, Pessimistic};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// sqlx::query("CREATE TABLE ledger (amount INTEGER)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
///
/// let faults = assert_retry_safe(
///     &db,
///     async |tx| {
///         sqlx::query("INSERT INTO ledger VALUES (5)").execute(&mut *tx).await?;
///         Ok::<_, Error>(())
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
/// With the [`NotRetrySafe`] that it finds, or the error of `count`. [`check_retry_safe`] returns them
/// instead.
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
        Err(unsafe_run) => panic!("not safe to run again: {unsafe_run}"),
    }
}

/// Why a check was not passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryCheck {
    /// The effect was not there as often as it was to be.
    #[error("{0}")]
    NotSafe(NotRetrySafe),
    /// The effects could not be counted.
    #[error("the effects could not be counted: {0}")]
    NotCounted(String),
    /// A fault was planned and did not happen: the unit does not take the same steps each time.
    #[error("{1:?} at {0:?} did not happen: the unit does not take the same steps each time")]
    NotReached(Moment, Fault),
    /// The unit does not commit without a fault, so none of its effects can be missing or doubled.
    #[error("nothing was checked: without any fault the unit ended with {0}")]
    NotCommitted(String),
    /// No fault made the transactor run the unit again.
    #[error(
        "nothing was checked: the unit was never run again; give the transactor more than one attempt, and \
         a strategy that retries"
    )]
    NeverRunAgain,
    /// The steps of the unit were not seen: the transactor does not pass on the options that it is given.
    #[error(
        "nothing was checked: the transactor ignores the options that it is given, so no fault can be \
         injected"
    )]
    NotSeen,
}

/// What [`assert_retry_safe`] asserts, as a value.
///
/// # Errors
///
/// The first run that shows that the unit is not safe to run again, or why that cannot be told.
pub async fn check_retry_safe<DB, X, F, T, E, C, Fut, N>(
    transactor: &X,
    unit: F,
    count: C,
) -> Result<usize, RetryCheck>
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
    let counted = || async { count().await.map_err(|error| RetryCheck::NotCounted(error.to_string())) };
    let check = Check { transactor, unit: &unit, count: counted };
    let none = Faults::new();
    if let Some(outcome) = check.run(none.options(), Injected::default()).await?.failure {
        return Err(RetryCheck::NotCommitted(outcome));
    }
    let steps = none.seen_in(1);
    if steps.is_empty() {
        return Err(RetryCheck::NotSeen);
    }
    let mut happened = 0;
    let mut retried = Vec::new();
    for fault in each_fault(&steps) {
        let again = check.run_with(Injected { first: Some(fault), second: None }).await?;
        happened += 1;
        retried.extend((!again.is_empty()).then_some((fault, again)));
    }
    if retried.is_empty() {
        return Err(RetryCheck::NeverRunAgain);
    }
    for (first, steps) in ways_to_the_second_attempt(retried) {
        for second in each_fault(&steps) {
            check.run_with(Injected { first: Some(first), second: Some(second) }).await?;
            happened += 2;
        }
    }
    Ok(happened)
}

type At = (Moment, Fault);

fn each_fault(steps: &[Moment]) -> impl Iterator<Item = At> + use<'_> {
    steps.iter().flat_map(|moment| FAULTS.map(|fault| (*moment, fault)))
}

/// Of the faults that a second attempt follows, the last one of each kind; and each that leads to other
/// steps.
fn ways_to_the_second_attempt(retried: Vec<(At, Vec<Moment>)>) -> Vec<(At, Vec<Moment>)> {
    let mut ways: Vec<(At, Vec<Moment>)> = Vec::new();
    for (at, steps) in retried {
        match ways.iter_mut().find(|(known, others)| known.1 == at.1 && *others == steps) {
            Some(way) => way.0 = at,
            None => ways.push((at, steps)),
        }
    }
    ways
}

/// The faults of a run.
#[derive(Debug, Clone, Copy, Default)]
struct Injected {
    first: Option<At>,
    second: Option<At>,
}

impl Injected {
    fn faults(self) -> Faults {
        let faults = Faults::new();
        let faults = match self.first {
            Some((moment, fault)) => faults.in_attempt(1, moment, fault),
            None => faults,
        };
        match self.second {
            Some((moment, fault)) => faults.in_attempt(2, moment, fault),
            None => faults,
        }
    }
}

/// How a run ended that left as many effects as it was to.
struct Ran {
    /// Why nothing was committed.
    failure: Option<String>,
}

struct Check<'a, X: ?Sized, F, C> {
    transactor: &'a X,
    unit: &'a F,
    count: C,
}

impl<X: ?Sized, F, C> Check<'_, X, F, C> {
    /// Runs the unit with these faults, and returns the steps of its second attempt.
    async fn run_with<DB, T, E, Fut>(&self, injected: Injected) -> Result<Vec<Moment>, RetryCheck>
    where
        DB: Backend,
        X: Transactor<DB>,
        F: UnitFn<DB, T, E>,
        T: Send,
        E: From<Error> + Send,
        C: Fn() -> Fut,
        Fut: Future<Output = Result<i64, RetryCheck>>,
    {
        let Some((moment, fault)) = injected.second.or(injected.first) else { return Ok(Vec::new()) };
        for again in 0..TRIES {
            let faults = injected.faults();
            let pause = PAUSE * again;
            sleep(pause).await;
            let options = match again {
                0 => faults.options(),
                _ => faults.options().backoff(Backoff::exponential(pause, pause).equal_jitter()),
            };
            self.run(options, injected).await?;
            if faults.pending() == 0 {
                return Ok(faults.seen_in(2));
            }
        }
        Err(RetryCheck::NotReached(moment, fault))
    }

    async fn run<DB, T, E, Fut>(&self, options: Options, injected: Injected) -> Result<Ran, RetryCheck>
    where
        DB: Backend,
        X: Transactor<DB>,
        F: UnitFn<DB, T, E>,
        T: Send,
        E: From<Error> + Send,
        C: Fn() -> Fut,
        Fut: Future<Output = Result<i64, RetryCheck>>,
    {
        let before = (self.count)().await?;
        let told = Told { transactor: self.transactor, outcome: Mutex::new(None) };
        let _ = told.with(options).run(self.unit.clone()).await;
        let found = (self.count)().await? - before;
        let (outcome, expected) = match told.outcome.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(Ended::Committed)) => (String::from("a commit"), (1, 1)),
            Some(Ok(Ended::RolledBack)) => (String::from("an error of its own"), (0, 0)),
            Some(Err((error, true))) => (error, (0, 1)),
            Some(Err((error, false))) => (error, (0, 0)),
            None => (String::from("nothing"), (0, 0)),
        };
        if (expected.0..=expected.1).contains(&found) {
            return Ok(Ran { failure: (expected != (1, 1)).then_some(outcome) });
        }
        let Injected { first: fault, second: second_fault } = injected;
        Err(RetryCheck::NotSafe(NotRetrySafe { fault, second_fault, outcome, expected, found }))
    }
}

/// A transactor whose outcomes are noted, whatever the unit's error type makes of them.
struct Told<'a, X: ?Sized> {
    transactor: &'a X,
    /// An error as text, and whether it leaves the commit unknown.
    outcome: Mutex<Option<Result<Ended, (String, bool)>>>,
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for Told<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        let result = self.transactor.transact(options, unit).await;
        let noted = match &result {
            Ok(ended) => Ok(*ended),
            Err(error) => Err((error.to_string(), error.is_commit_unknown())),
        };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(noted);
        result
    }
}
