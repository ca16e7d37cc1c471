//! One attempt at a single statement.

use std::pin::pin;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Database, Pool, SqlStr};
use tokio::time::Instant;

use crate::backend::{Backend, WatchedQuery, error_text, failure_of, failure_or_other};
use crate::events::RunOutcome;
use crate::failure::{Failure, FailureKind};
use crate::intercept::StatementAnswer;
use crate::sql_text::Syntax;
use crate::strategy::Plan;
use crate::telemetry::counted;
use crate::transactor::atomicity::{Atomicity, sent_once};
use crate::transactor::deadline::Timer;
use crate::transactor::options::Options;
use crate::transactor::retryable::{AttemptOutcome, Retryable};
use crate::transactor::waiting::Permits;
use crate::tx::{Attempts, ConnectionReuse, Interception, PooledSession, cut_short, not_connected};

/// A single statement, and where it runs.
pub(in crate::transactor) struct StatementTarget<'a, DB: Backend> {
    pub(in crate::transactor) pool: &'a Pool<DB>,
    pub(in crate::transactor) reuse: &'a ConnectionReuse<DB>,
    /// Its text, for observers.
    pub(in crate::transactor) sql: SqlStr,
    pub(in crate::transactor) nowait: bool,
    pub(in crate::transactor) atomicity: Atomicity,
}

/// The attempts at a single statement, without BEGIN and COMMIT.
pub(in crate::transactor) struct StatementAttempts<'a, DB: Backend, R> {
    target: StatementTarget<'a, DB>,
    run: R,
}

/// One execution of a statement.
#[derive(Debug, Clone, Copy)]
pub(in crate::transactor) struct Sending {
    /// The number of the attempt.
    pub(in crate::transactor) attempt: u32,
    /// The time limit for the server.
    pub(in crate::transactor) limit: Duration,
}

impl<'a, DB: Backend, R> StatementAttempts<'a, DB, R> {
    pub(in crate::transactor) fn new<T>(target: StatementTarget<'a, DB>, run: R) -> Self
    where
        R: for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        Self { target, run }
    }
}

impl<DB, R, T> Retryable for StatementAttempts<'_, DB, R>
where
    DB: Backend,
    R: for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
    T: Send,
{
    type Output = T;

    const SYSTEM: &'static str = DB::SYSTEM;

    const SYNTAX: Syntax = DB::SYNTAX;

    fn outcome(_output: &T) -> RunOutcome {
        RunOutcome::Committed
    }

    fn unresolved(&self) -> Option<Failure> {
        None
    }

    async fn ended(&mut self, _timer: &mut Timer) {}

    async fn attempt(
        &mut self,
        _plan: Plan,
        attempt: u32,
        _permits: Permits,
        timer: &mut Timer,
    ) -> AttemptOutcome<T> {
        // A statement that fails on a dead connection looks like a lost commit, so the pool's ping is worth
        // its round trip here.
        let observation = timer.observation.clone();
        let StatementTarget { pool, reuse, .. } = self.target;
        let asked = Instant::now();
        let acquiring = pin!(PooledSession::acquire_for_lone_statement(pool, reuse));
        let acquiring = counted(observation.as_deref(), |times| &mut times.pool, acquiring);
        let session = timer.within(pin!(acquiring)).await;
        let mut session = match session {
            Some(Ok(session)) => session,
            Some(Err(error)) => return AttemptOutcome::failed(not_connected(pool, asked, &error)),
            None => return AttemptOutcome::out_of_time("for a connection", cut_short(pool, asked, false)),
        };
        timer.notify(|observation| observation.sent(&self.target.sql));
        let sending = Sending { attempt, limit: timer.clock.server_limit() };
        let answer = timer.within((self.run)(session.connection(), sending)).await;
        let error = match answer {
            Some(Ok(output)) => {
                return match DB::COMMIT_AFTER_CALL
                    .filter(|_| self.target.atomicity == Atomicity::MayStorePart)
                {
                    None => {
                        session.release_after_lone_statement().await;
                        AttemptOutcome::Done(output)
                    }
                    Some(commit) => self.commit_call(session, commit, output, timer).await,
                };
            }
            Some(Err(error)) => error,
            None => {
                return AttemptOutcome::failed(Failure::new(
                    FailureKind::CommitUnknown,
                    "the deadline passed before the server answered the statement",
                ));
            }
        };
        let failure = failure_of::<DB>(&error, self.target.nowait)
            .unwrap_or_else(|| Failure::new(FailureKind::Other, error_text(&error)));
        timer.notify(|observation| observation.answered(Some(&failure)));
        // A lone statement is its own transaction, so a lost connection may mean a lost acknowledgement of
        // its commit.
        if failure.is_in_doubt() {
            session.close();
            return AttemptOutcome::failed(failure.into_commit_unknown());
        }
        let may_store_part = self.target.atomicity == Atomicity::MayStorePart;
        let may_leave_a_transaction = may_store_part && DB::COMMIT_AFTER_CALL.is_some();
        if failure.ends_session() || may_leave_a_transaction {
            session.close();
        } else {
            session.release_after_lone_statement().await;
        }
        if may_store_part {
            AttemptOutcome::Final(sent_once(failure))
        } else if DB::VIOLATIONS_MAY_STORE_PARTS && failure.kind() == FailureKind::Constraint {
            AttemptOutcome::Final(failure)
        } else {
            AttemptOutcome::failed(failure)
        }
    }
}

impl<DB: Backend, R> StatementAttempts<'_, DB, R> {
    /// Commits the transaction that a `CALL` may have left open, and closes the connection, because the
    /// procedure may also have changed its session.
    async fn commit_call<T>(
        &self,
        mut session: PooledSession<DB>,
        commit: &'static str,
        output: T,
        timer: &mut Timer,
    ) -> AttemptOutcome<T> {
        let committed = timer.within(DB::send_text(session.connection(), commit.to_owned())).await;
        match committed.map(|reply| reply.error) {
            Some(None) => {
                session.close();
                AttemptOutcome::Done(output)
            }
            Some(Some(error)) => {
                let failure = failure_or_other::<DB>(&error);
                let is_refused = failure.is_definite();
                AttemptOutcome::Final(if is_refused {
                    sent_once(failure)
                } else {
                    failure.into_commit_unknown()
                })
            }
            None => AttemptOutcome::Final(Failure::new(
                FailureKind::CommitUnknown,
                "the deadline passed before the server answered the commit of what the statement had left \
                 open",
            )),
        }
    }
}

/// Sends a query on a connection.
type SendQuery<DB, T> = for<'c> fn(
    &'c mut <DB as Database>::Connection,
    WatchedQuery<DB>,
) -> BoxFuture<'c, Result<T, sqlx::Error>>;

/// Returns the function that sends a query by `send`, through the interceptors if there are any. `answer`
/// describes its result to them.
pub(in crate::transactor) fn sending<DB: Backend, T: Send + 'static>(
    options: &Options,
    query: WatchedQuery<DB>,
    answer: fn(&T) -> StatementAnswer,
    send: SendQuery<DB, T>,
) -> impl for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>> {
    let interceptors = options.interceptors().clone();
    let max_attempts = options.max_attempts();
    move |connection, Sending { attempt, .. }| {
        if interceptors.is_empty() {
            return send(connection, query.clone());
        }
        let (interceptors, query) = (interceptors.clone(), query.clone());
        Box::pin(async move {
            let attempts = Attempts { number: attempt, max: max_attempts };
            let interception = Interception::new::<DB>(interceptors, attempts, connection).await;
            interception.run(connection, &query, answer, send).await
        })
    }
}
