//! One attempt at a single statement.

use std::pin::pin;

use sqlx::Pool;
use tokio::time::Instant;

use super::nobody_answered;
use crate::backend::{Backend, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::gate::Place;
use crate::intercept::Answer;
use crate::observe::RunOutcome;
use crate::policy::Plan;
use crate::transactor::attempt::{Outcome, Timer, Trial};
use crate::transactor::options::Options;
use crate::tx::{Handoff, Interception, Session, not_connected};

/// A single statement, without BEGIN and COMMIT.
pub(in crate::transactor) struct StatementTrial<'a, DB: Backend> {
    pub(in crate::transactor) pool: &'a Pool<DB>,
    pub(in crate::transactor) handoff: &'a Handoff<DB>,
    pub(in crate::transactor) options: &'a Options,
    pub(in crate::transactor) query: WatchedQuery<DB>,
}

impl<DB: Backend> Trial for StatementTrial<'_, DB> {
    type Output = u64;

    const SYSTEM: &'static str = DB::SYSTEM;

    fn outcome(_output: &u64) -> RunOutcome {
        RunOutcome::Committed
    }

    fn unresolved(&self) -> Option<Failure> {
        None
    }

    async fn ended(&mut self, _timer: &mut Timer) {}

    async fn once(
        &mut self,
        _plan: Plan,
        attempt: u32,
        _place: Option<Place>,
        timer: &mut Timer,
    ) -> Outcome<u64> {
        // A dead connection met by a statement cannot be told from a lost commit, so here the pool's test is worth
        // its round trip.
        let asked = Instant::now();
        let session = timer.within(pin!(Session::acquire_tested(self.pool, self.handoff))).await;
        if let Some(observation) = &timer.observation {
            observation.connected(asked.elapsed());
            observation.sent(self.query.text());
        }
        let mut session = match session {
            Some(Ok(session)) => session,
            Some(Err(error)) => return Outcome::failed(not_connected::<DB>(&error)),
            None => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        let answer = timer.within(pin!(self.run(session.connection(), attempt))).await;
        let error = match answer {
            Some(Ok(rows)) => {
                session.release();
                return Outcome::Done(rows);
            }
            Some(Err(error)) => error,
            None => {
                return Outcome::failed(Failure::new(
                    FailureKind::CommitUnknown,
                    "the deadline passed before the server answered the statement",
                ));
            }
        };
        let failure = failure_of::<DB>(&error, self.query.asks_nowait())
            .unwrap_or_else(|| Failure::new(FailureKind::Other, error.to_string()));
        if let Some(observation) = &timer.observation {
            observation.answered(Some(&failure));
        }
        if in_doubt(&failure) {
            return Outcome::failed(failure.into_commit_unknown());
        }
        session.release();
        Outcome::failed(failure)
    }
}

impl<DB: Backend> StatementTrial<'_, DB> {
    async fn run(&self, connection: &mut DB::Connection, attempt: u32) -> Result<u64, sqlx::Error> {
        let interceptors = self.options.interceptors();
        if interceptors.is_empty() {
            return DB::run_statement(connection, self.query.clone()).await;
        }
        let interception = Interception::new::<DB>(interceptors.clone(), attempt, connection).await;
        let told = |rows: &u64| Answer::affected(*rows);
        interception.run(connection, &self.query, told, DB::run_statement).await
    }
}

/// A lone statement commits itself, so what breaks while it is in flight may break its commit.
fn in_doubt(failure: &Failure) -> bool {
    !failure.is_definite()
        && matches!(
            failure.kind(),
            FailureKind::ConnectionLost | FailureKind::CommitUnknown | FailureKind::Unavailable
        )
}
