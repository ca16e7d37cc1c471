//! Injects failures and delays into the steps of transactions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind};
use crate::transactor::{Options, Transactor, TransactorExt as _, With};

/// Injects failures and delays into the steps of transactions, on a real database.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::{Fault, Faults, Moment};
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect("sqlite::memory:").await?;
/// let db = Pessimistic::default().on(&pool);
/// let faults = Faults::new().at(Moment::Statement(1), Fault::SerializationFailure);
///
/// let attempts = faults
///     .on(&db)
///     .run(async |tx| -> Result<_, Error> {
///         sqlx::query("SELECT 1").execute(&mut *tx).await?;
///         Ok(tx.attempt())
///     })
///     .await?;
/// assert_eq!((attempts, faults.pending()), (2, 0));
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// Each fault happens once, at the first step that reaches its moment; later attempts and runs are not
/// affected. [`in_attempt`](Self::in_attempt) places a fault into a later attempt. Assert at the end of a
/// test that no fault is still [`pending`](Self::pending).
///
/// # How realistic the faults are
///
/// On PostgreSQL, MySQL and MariaDB the server itself raises the error, so the transaction is left in the
/// state that the real failure would leave. On SQLite the statement is not sent, and the error is the one
/// that SQLite would return; [`Deadlock`](Fault::Deadlock) and [`LockTimeout`](Fault::LockTimeout) become a
/// busy database. A lost connection is closed by the client, and the server rolls back the transaction when
/// it notices.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<FaultsState>>);

#[derive(Debug, Default)]
struct FaultsState {
    planned: Vec<Planned>,
    /// The number of statements that the unit has sent, by attempt.
    statements: HashMap<u32, u32>,
    /// The moments that were reached, with their attempts.
    reached: Vec<(u32, Moment)>,
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    /// `None` for the first attempt that reaches the moment.
    attempt: Option<u32>,
    moment: Moment,
    disturbance: Disturbance,
}

#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Fault(Fault),
    Delay(Duration),
}

/// A step of a transaction at which a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Moment {
    /// The BEGIN.
    Begin,
    /// The statement with this number, counted from 1 in each attempt. Savepoints and advisory locks are
    /// counted too.
    Statement(u32),
    /// The COMMIT.
    Commit,
}

impl Faults {
    /// Creates a plan without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Injects a fault at this moment of the first attempt that reaches it.
    #[must_use]
    pub fn at(self, moment: Moment, fault: Fault) -> Self {
        self.plan(Planned { attempt: None, moment, disturbance: Disturbance::Fault(fault) })
    }

    /// Injects a fault at this moment of an attempt, counted from 1.
    #[must_use]
    pub fn in_attempt(self, attempt: u32, moment: Moment, fault: Fault) -> Self {
        self.plan(Planned { attempt: Some(attempt), moment, disturbance: Disturbance::Fault(fault) })
    }

    /// Delays the step at this moment.
    #[must_use]
    pub fn delay(self, moment: Moment, delay: Duration) -> Self {
        self.plan(Planned { attempt: None, moment, disturbance: Disturbance::Delay(delay) })
    }

    fn plan(self, planned: Planned) -> Self {
        self.state().planned.push(planned);
        self
    }

    /// Returns a transactor with these faults. Several transactors can share them.
    pub fn on<'a, DB: Backend, X: Transactor<DB> + ?Sized>(&self, transactor: &'a X) -> With<'a, X> {
        transactor.with(self.options())
    }

    /// Returns these faults as an option of a transactor.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::new().intercepted_by(Arc::new(self.clone()))
    }

    /// Returns the number of faults and delays that have not happened yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().planned.len()
    }

    /// The moments that were reached in attempts with this number, in order and each once.
    pub(super) fn reached_in(&self, attempt: u32) -> Vec<Moment> {
        let mut moments = Vec::new();
        for (number, moment) in &self.state().reached {
            if *number == attempt && !moments.contains(moment) {
                moments.push(*moment);
            }
        }
        moments
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FaultsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultsState {
    /// Records the moment of a step.
    fn reach(&mut self, step: &Step) -> Option<Moment> {
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
        self.reached.push((step.attempt, moment));
        Some(moment)
    }

    /// Removes the disturbances that are due from the plan.
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
            let moment = state.reach(step)?;
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
