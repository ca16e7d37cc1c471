//! One attempt at a single statement.

use std::pin::pin;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Pool, SqlStr};
use tokio::time::Instant;

use crate::backend::shown;
use crate::backend::{Backend, WatchedQuery, failure_of, failure_or_other};
use crate::events::RunOutcome;
use crate::failure::{Failure, FailureKind};
use crate::intercept::Answer;
use crate::sql_text::Syntax;
use crate::strategy::Plan;
use crate::telemetry::counted;
use crate::transactor::deadline::Timer;
use crate::transactor::lines::Standing;
use crate::transactor::lone::{Sent, sent_once};
use crate::transactor::options::Options;
use crate::transactor::tries::{Outcome, Trial};
use crate::tx::{Attempts, Handoff, Interception, Session, cut_short, not_connected};

/// Where a single statement runs, and what is known of it.
pub(in crate::transactor) struct Alone<'a, DB: Backend> {
    pub(in crate::transactor) pool: &'a Pool<DB>,
    pub(in crate::transactor) handoff: &'a Handoff<DB>,
    /// Its text, for those who watch.
    pub(in crate::transactor) sql: SqlStr,
    pub(in crate::transactor) nowait: bool,
    /// Whether it may be sent again when it has failed.
    pub(in crate::transactor) sent: Sent,
}

/// A single statement, without BEGIN and COMMIT.
pub(in crate::transactor) struct StatementTrial<'a, DB: Backend, R> {
    alone: Alone<'a, DB>,
    run: R,
}

/// When it is sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::transactor) struct Sending {
    /// At the attempt with this number.
    pub(in crate::transactor) attempt: u32,
    /// With what the server may be told of the time that is left.
    pub(in crate::transactor) limit: Duration,
}

impl<'a, DB: Backend, R> StatementTrial<'a, DB, R> {
    pub(in crate::transactor) fn new<T>(alone: Alone<'a, DB>, run: R) -> Self
    where
        R: for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        Self { alone, run }
    }
}

impl<DB, R, T> Trial for StatementTrial<'_, DB, R>
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

    async fn once(
        &mut self,
        _plan: Plan,
        attempt: u32,
        _standing: Standing,
        timer: &mut Timer,
    ) -> Outcome<T> {
        // A dead connection met by a statement cannot be told from a lost commit, so here the pool's test is
        // worth its round trip.
        let observation = timer.observation.clone();
        let Alone { pool, handoff, .. } = self.alone;
        let asked = Instant::now();
        let acquiring = pin!(Session::acquire_for_lone_statement(pool, handoff));
        let acquiring = counted(observation.as_deref(), |times| &mut times.pool, acquiring);
        let session = timer.within(pin!(acquiring)).await;
        let mut session = match session {
            Some(Ok(session)) => session,
            Some(Err(error)) => return Outcome::failed(not_connected(pool, asked, &error)),
            None => return Outcome::out_of_time("for a connection", cut_short(pool, asked, false)),
        };
        timer.tell(|observation| observation.sent(&self.alone.sql));
        let sending = Sending { attempt, limit: timer.clock.server_limit() };
        let answer = timer.within((self.run)(session.connection(), sending)).await;
        let error = match answer {
            Some(Ok(output)) => {
                return match DB::AFTER_CALL.filter(|_| self.alone.sent == Sent::Once) {
                    None => {
                        session.release_after_lone_statement().await;
                        Outcome::Done(output)
                    }
                    Some(commit) => self.commit_call(session, commit, output, timer).await,
                };
            }
            Some(Err(error)) => error,
            None => {
                return Outcome::failed(Failure::new(
                    FailureKind::CommitUnknown,
                    "the deadline passed before the server answered the statement",
                ));
            }
        };
        let failure = failure_of::<DB>(&error, self.alone.nowait)
            .unwrap_or_else(|| Failure::new(FailureKind::Other, shown(&error)));
        timer.tell(|observation| observation.answered(Some(&failure)));
        if in_doubt(&failure) {
            session.close();
            return Outcome::failed(failure.into_commit_unknown());
        }
        let is_once = self.alone.sent == Sent::Once;
        let may_hold_a_transaction = is_once && DB::AFTER_CALL.is_some();
        if failure.ends_session() || may_hold_a_transaction {
            session.close();
        } else {
            session.release_after_lone_statement().await;
        }
        if is_once {
            Outcome::Final(sent_once(failure))
        } else if DB::VIOLATIONS_KEEP_PARTS && failure.kind() == FailureKind::Constraint {
            Outcome::Final(failure)
        } else {
            Outcome::failed(failure)
        }
    }
}

impl<DB: Backend, R> StatementTrial<'_, DB, R> {
    /// Commits what a call has left open. Its connection is closed: who knows what else it has left there.
    async fn commit_call<T>(
        &self,
        mut session: Session<DB>,
        commit: &'static str,
        output: T,
        timer: &mut Timer,
    ) -> Outcome<T> {
        let committed = timer.within(DB::send_text(session.connection(), commit.to_owned())).await;
        match committed.map(|reply| reply.error) {
            Some(None) => {
                session.close();
                Outcome::Done(output)
            }
            Some(Some(error)) => {
                let failure = failure_or_other::<DB>(&error);
                let is_refused = failure.is_definite();
                Outcome::Final(if is_refused { sent_once(failure) } else { failure.into_commit_unknown() })
            }
            None => Outcome::Final(Failure::new(
                FailureKind::CommitUnknown,
                "the deadline passed before the server answered the commit of what the statement had left open",
            )),
        }
    }
}

/// How a query is sent, past the interceptors if there are any.
pub(in crate::transactor) fn sending<DB: Backend>(
    options: &Options,
    query: WatchedQuery<DB>,
) -> impl for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<u64, sqlx::Error>> {
    let interceptors = options.interceptors().clone();
    let most = options.most_attempts();
    move |connection, Sending { attempt, .. }| {
        if interceptors.is_empty() {
            return DB::run_statement(connection, query.clone());
        }
        let (interceptors, query) = (interceptors.clone(), query.clone());
        Box::pin(async move {
            let attempts = Attempts { number: attempt, most };
            let interception = Interception::new::<DB>(interceptors, attempts, connection).await;
            let told = |rows: &u64| Answer::affected(*rows);
            interception.run(connection, &query, told, DB::run_statement).await
        })
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
