//! Failures on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind};
use crate::transactor::{Options, Transactor, TransactorExt as _, With};

/// Lets the steps of transactions fail or lag, at the moments of your choice, on a real database.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::{Fault, Faults, Moment};
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// let db = Pessimistic::default().on(&pool);
/// let faults = Faults::new().at(Moment::Statement(1), Fault::SerializationFailure);
///
/// let attempts = faults
///     .on(&db)
///     .run(async |tx| {
///         sqlx::query("SELECT 1").execute(&mut *tx).await?;
///         Ok::<_, Error>(tx.attempt())
///     })
///     .await?;
/// assert_eq!((attempts, faults.pending()), (2, 0));
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// Each fault happens once, the first time that its moment comes: the next attempt, and the next run, go past
/// it. For one in a later attempt there is [`in_attempt`](Self::in_attempt). A fault that has not happened is
/// still [`pending`](Self::pending); a test that means something asks.
///
/// # How real they are
///
/// PostgreSQL, MySQL and MariaDB raise the error themselves, and leave the transaction as the real failure
/// leaves it. On SQLite the statement is not sent and answers what SQLite would; a
/// [`Deadlock`](Fault::Deadlock) or [`LockTimeout`](Fault::LockTimeout) is a busy database there. A
/// connection that breaks is closed on this side, and the server rolls back what was open when it notices.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    planned: Vec<Planned>,
    /// How many statements of its own the unit has sent, in each attempt.
    statements: HashMap<u32, u32>,
    /// The moments that have come, with their attempts.
    seen: Vec<(u32, Moment)>,
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    /// `None` is the first attempt that gets there.
    attempt: Option<u32>,
    moment: Moment,
    disturbance: Disturbance,
}

#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Fault(Fault),
    Delay(Duration),
}

/// A step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Moment {
    /// The transaction is opened.
    Begin,
    /// The statement with this number, counted from 1 in each attempt. Savepoints and advisory locks count as
    /// well.
    Statement(u32),
    /// The transaction is committed.
    Commit,
}

impl Faults {
    /// No faults yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Something goes wrong at this moment.
    #[must_use]
    pub fn at(self, moment: Moment, fault: Fault) -> Self {
        self.planned(Planned { attempt: None, moment, disturbance: Disturbance::Fault(fault) })
    }

    /// Something goes wrong at this moment of the attempt with this number, the first being 1.
    #[must_use]
    pub fn in_attempt(self, attempt: u32, moment: Moment, fault: Fault) -> Self {
        self.planned(Planned { attempt: Some(attempt), moment, disturbance: Disturbance::Fault(fault) })
    }

    /// The step of this moment is held back for so long.
    #[must_use]
    pub fn delay(self, moment: Moment, delay: Duration) -> Self {
        self.planned(Planned { attempt: None, moment, disturbance: Disturbance::Delay(delay) })
    }

    fn planned(self, planned: Planned) -> Self {
        self.state().planned.push(planned);
        self
    }

    /// The transactor that these faults happen to. There may be several.
    pub fn on<'a, DB: Backend, X: Transactor<DB> + ?Sized>(&self, transactor: &'a X) -> With<'a, X> {
        transactor.with(self.options())
    }

    /// The same as an option, for a transactor of its own.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::new().intercepted_by(Arc::new(self.clone()))
    }

    /// How many have not happened.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().planned.len()
    }

    /// The moments that have come in attempts with this number, in order and each once.
    pub(super) fn seen_in(&self, attempt: u32) -> Vec<Moment> {
        let mut moments = Vec::new();
        for (number, moment) in &self.state().seen {
            if *number == attempt && !moments.contains(moment) {
                moments.push(*moment);
            }
        }
        moments
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn moment(&mut self, step: &Step) -> Option<Moment> {
        let moment = match step.kind {
            StepKind::Begin => {
                self.statements.insert(step.attempt, 0);
                Moment::Begin
            }
            StepKind::Statement | StepKind::Control => {
                let number = self.statements.entry(step.attempt).or_default();
                *number += 1;
                Moment::Statement(*number)
            }
            StepKind::Commit => Moment::Commit,
            StepKind::Rollback => return None,
        };
        self.seen.push((step.attempt, moment));
        Some(moment)
    }

    fn take(&mut self, attempt: u32, moment: Moment) -> Vec<Disturbance> {
        let is_due = |planned: &Planned| {
            planned.moment == moment && planned.attempt.is_none_or(|planned| planned == attempt)
        };
        let (due, planned): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.planned).into_iter().partition(is_due);
        self.planned = planned;
        due.into_iter().map(|planned| planned.disturbance).collect()
    }
}

#[async_trait]
impl Interceptor for Faults {
    async fn before(&self, step: &Step) -> Option<Fault> {
        let due = {
            let mut state = self.state();
            let moment = state.moment(step)?;
            state.take(step.attempt, moment)
        };
        let mut fault = None;
        for disturbance in due {
            match disturbance {
                Disturbance::Delay(delay) => tokio::time::sleep(delay).await,
                Disturbance::Fault(planned) => fault = Some(planned),
            }
        }
        fault
    }

    async fn after(&self, _step: &Step, _answer: &StatementAnswer) -> Next {
        Next::GoOn
    }
}
