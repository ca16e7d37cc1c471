//! One attempt at a single statement.

use sqlx::Pool;

use super::nobody_answered;
use crate::backend::{Backend, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::gate::Place;
use crate::policy::Plan;
use crate::transactor::attempt::{Outcome, Timer, Trial};
use crate::tx::{Session, not_connected};

/// A single statement, without BEGIN and COMMIT.
pub(in crate::transactor) struct StatementTrial<'a, DB: Backend> {
    pub(in crate::transactor) pool: &'a Pool<DB>,
    pub(in crate::transactor) query: WatchedQuery<DB>,
}

impl<DB: Backend> Trial for StatementTrial<'_, DB> {
    type Output = u64;

    fn unresolved(&self) -> Option<Failure> {
        None
    }

    async fn ended(&mut self, _timer: &mut Timer) {}

    async fn once(
        &mut self,
        _plan: Plan,
        _attempt: u32,
        _place: Option<Place>,
        timer: &mut Timer,
    ) -> Outcome<u64> {
        // A dead connection met by a statement cannot be told from a lost commit, so here the pool's test is worth
        // its round trip.
        let mut session = match timer.within(Session::acquire(self.pool, true)).await {
            Some(Ok(session)) => session,
            Some(Err(error)) => return Outcome::failed(not_connected::<DB>(&error)),
            None => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        let statement = DB::run_statement(session.connection(), self.query.clone());
        let error = match timer.within(statement).await {
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
        if in_doubt(&failure) {
            return Outcome::failed(failure.into_commit_unknown());
        }
        session.release();
        Outcome::failed(failure)
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
