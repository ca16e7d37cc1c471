//! One attempt at a unit of work, or at a single statement.

use sqlx::Pool;
use tokio::time::timeout_at;

use crate::backend::{Backend, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::policy::Plan;
use crate::tx::{Commit, NotOpened, Session, Tx, not_connected};

use super::attempt::{Clock, Otherwise, Outcome, Trial};
use super::{Ended, Unit, Wish};

/// A unit of work, in a transaction.
pub(super) struct UnitTrial<'a, DB: Backend> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) before_acquire: bool,
    pub(super) unit: &'a mut dyn Unit<DB>,
}

impl<DB: Backend> Trial for UnitTrial<'_, DB> {
    type Output = Ended;

    async fn once(&mut self, plan: Plan, attempt: u32, clock: Clock) -> Outcome<Ended> {
        let opening = open(self.pool, plan, attempt, clock, self.before_acquire);
        let mut tx = match timeout_at(clock.deadline, opening).await {
            Ok(Ok(tx)) => tx,
            Ok(Err(failure)) => return Outcome::failed(failure),
            Err(_) => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        let Ok(wish) = timeout_at(clock.deadline, self.unit.attempt(&mut tx)).await else {
            return Outcome::OutOfTime(None);
        };
        if let Some(failure) = tx.over() {
            let failure = failure.clone();
            tx.rollback().await;
            let otherwise = match wish {
                Wish::Commit => Otherwise::Swallowed,
                Wish::RollBack => Otherwise::Own(Ended::RolledBack),
            };
            return Outcome::Failed { failure, otherwise };
        }
        match wish {
            Wish::RollBack => {
                tx.rollback().await;
                Outcome::Done(Ended::RolledBack)
            }
            Wish::Commit if clock.is_over() => {
                tx.rollback().await;
                Outcome::OutOfTime(None)
            }
            Wish::Commit => match tx.commit(clock.deadline).await {
                Commit::Done => Outcome::Done(Ended::Committed),
                Commit::Refused(failure) | Commit::Unknown(failure) => Outcome::failed(failure),
            },
        }
    }
}

/// A pooled connection may have died since it was last used. Finding out is not an attempt: nothing was run. There are
/// at most as many of them as the pool holds.
async fn open<DB: Backend>(
    pool: &Pool<DB>,
    plan: Plan,
    attempt: u32,
    clock: Clock,
    before_acquire: bool,
) -> Result<Tx<DB>, Failure> {
    let mut replacements = pool.options().get_max_connections();
    loop {
        match Tx::open(pool, plan, attempt, Some(clock.server_limit()), before_acquire).await {
            Ok(tx) => return Ok(tx),
            Err(NotOpened { stale_connection: true, .. }) if replacements > 0 => replacements -= 1,
            Err(NotOpened { failure, .. }) => return Err(failure),
        }
    }
}

/// A single statement, without BEGIN and COMMIT.
pub(super) struct StatementTrial<'a, DB: Backend> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) query: WatchedQuery<DB>,
}

impl<DB: Backend> Trial for StatementTrial<'_, DB> {
    type Output = u64;

    async fn once(&mut self, _plan: Plan, _attempt: u32, clock: Clock) -> Outcome<u64> {
        // A dead connection met by a statement cannot be told from a lost commit, so here the pool's test is worth
        // its round trip.
        let mut session = match timeout_at(clock.deadline, Session::acquire(self.pool, true)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Outcome::failed(not_connected::<DB>(&error)),
            Err(_) => return Outcome::OutOfTime(Some(nobody_answered(self.pool))),
        };
        let statement = DB::run_statement(session.connection(), self.query.clone());
        let error = match timeout_at(clock.deadline, statement).await {
            Ok(Ok(rows)) => {
                session.release();
                return Outcome::Done(rows);
            }
            Ok(Err(error)) => error,
            Err(_) => {
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

/// What the deadline was spent on while there was no transaction yet.
fn nobody_answered<DB: Backend>(pool: &Pool<DB>) -> Failure {
    let (open, idle, most) = (pool.size(), pool.num_idle(), pool.options().get_max_connections());
    let message = if open >= most && idle == 0 {
        format!("all {most} connections of the pool stayed in use")
    } else {
        format!(
            "the server did not let a transaction begin (pool: {open} of {most} connections open, {idle} idle)"
        )
    };
    Failure::new(FailureKind::Unavailable, message).retryable(true)
}
