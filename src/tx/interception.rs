//! Passes the steps of a transaction through its interceptors.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use crate::backend::error_text;
use crate::backend::{Backend, Provocation, Reply, SyntheticError, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::intercept::{Fault, Interceptors, Next, StatementAnswer, Step, StepKind, TransactionToken};

/// The result of a statement, once the driver has it.
type SqlxFuture<'a, T> = BoxFuture<'a, Result<T, sqlx::Error>>;

/// The interceptors of one transaction, and the data that its steps share.
pub(crate) struct Interception {
    interceptors: Interceptors,
    attempts: Attempts,
    session: Option<i64>,
    /// Referred to by the transaction's token, which detects that it was dropped.
    in_use: Arc<()>,
}

/// The number of an attempt, and the maximum number of attempts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempts {
    pub(crate) number: u32,
    pub(crate) max: u32,
}

impl Interception {
    pub(crate) async fn new<DB: Backend>(
        interceptors: Interceptors,
        attempts: Attempts,
        connection: &mut DB::Connection,
    ) -> Self {
        let session = match DB::SESSION_ID_QUERY {
            Some(ask) if interceptors.want_sessions() => {
                DB::send_text(connection, ask.to_owned()).await.integers.first().copied()
            }
            _ => None,
        };
        Self { interceptors, attempts, session, in_use: Arc::new(()) }
    }

    fn step(&self, kind: StepKind, sql: &str) -> Step {
        Step {
            kind,
            attempt: self.attempts.number,
            max_attempts: self.attempts.max,
            transaction: TransactionToken::of(&self.in_use),
            sql: sql.to_owned(),
            arguments: None,
            session: self.session,
        }
    }

    /// Reports that the unit has taken the connection itself.
    pub(super) fn unwatched(&self) {
        self.interceptors.unwatched();
    }

    fn statement<DB: Backend>(&self, query: &WatchedQuery<DB>) -> Step {
        Step { arguments: query.argument_texts(), ..self.step(StepKind::Statement, query.sql()) }
    }

    async fn before(&self, step: &Step) -> Option<Fault> {
        self.interceptors.before(step).await
    }

    /// Returns whether to send the step again.
    async fn after(&self, step: &Step, answer: &StatementAnswer) -> bool {
        self.interceptors.after(step, answer).await == Next::SendAgain
    }

    /// Runs a statement until no interceptor wants it to be sent again.
    pub(crate) async fn run<DB: Backend, T>(
        &self,
        connection: &mut DB::Connection,
        query: &WatchedQuery<DB>,
        describe: fn(&T) -> StatementAnswer,
        run: impl for<'x> Fn(&'x mut DB::Connection, WatchedQuery<DB>) -> SqlxFuture<'x, T>,
    ) -> Result<T, sqlx::Error> {
        let step = self.statement(query);
        let mut fault = self.before(&step).await;
        loop {
            let result = match fault.take() {
                None => run(connection, query.clone()).await,
                Some(Fault::AnswerLost) => {
                    run(connection, query.clone()).await.and_then(|_| Err(connection_reset()))
                }
                Some(fault) => Err(provoked::<DB>(connection, fault).await),
            };
            let answer = match &result {
                Ok(output) => describe(output),
                Err(error) => failed::<DB>(error, query.has_nowait()),
            };
            if !self.after(&step, &answer).await {
                return result;
            }
        }
    }

    /// Sends a text of this crate until no interceptor wants it to be sent again; from the second time on,
    /// only the statements that have not been completed.
    async fn send<DB: Backend>(
        &self,
        connection: &mut DB::Connection,
        kind: StepKind,
        mut sql: String,
    ) -> Reply {
        let step = self.step(kind, &sql);
        let mut fault = self.before(&step).await;
        let mut all = Reply::default();
        loop {
            let reply = match fault.take() {
                None => DB::send_text(connection, sql.clone()).await,
                Some(Fault::AnswerLost) => {
                    DB::send_text(connection, sql.clone()).await;
                    Reply { error: Some(connection_reset()), ..Reply::default() }
                }
                Some(fault) => {
                    let error = provoked::<DB>(connection, fault).await;
                    // A COMMIT that fails has ended the transaction on the server.
                    if kind == StepKind::Commit && matches!(error, sqlx::Error::Database(_)) {
                        DB::send_text(connection, "ROLLBACK".to_owned()).await;
                    }
                    Reply { error: Some(error), ..Reply::default() }
                }
            };
            let answer = match &reply.error {
                Some(error) => failed::<DB>(error, false),
                None => StatementAnswer { integers: reply.integers.clone(), ..StatementAnswer::default() },
            };
            let again = self.after(&step, &answer).await;
            if again {
                sql = sql.split("; ").skip(reply.completed).collect::<Vec<_>>().join("; ");
            }
            all.completed += reply.completed;
            all.integers.extend(reply.integers);
            all.texts.extend(reply.texts);
            all.error = reply.error;
            if !again {
                return all;
            }
        }
    }
}

/// Sends a text of this crate, through the interceptors if there are any.
pub(super) async fn send<DB: Backend>(
    interception: Option<&Interception>,
    connection: &mut DB::Connection,
    kind: StepKind,
    sql: impl Into<Cow<'static, str>>,
) -> Reply {
    let sql = sql.into();
    match interception {
        None if matches!(kind, StepKind::Commit | StepKind::Rollback) => DB::send_end(connection, sql).await,
        None => DB::send_text(connection, sql.into_owned()).await,
        // Boxed, because it would add its size to the future of every run.
        Some(interception) => Box::pin(interception.send::<DB>(connection, kind, sql.into_owned())).await,
    }
}

fn failed<DB: Backend>(error: &sqlx::Error, nowait: bool) -> StatementAnswer {
    let failure = failure_of::<DB>(error, nowait);
    StatementAnswer::failed(failure.unwrap_or_else(|| Failure::new(FailureKind::Other, error_text(error))))
}

/// Returns the error for a fault that keeps a step from reaching the server. If possible, the server itself
/// raises the error.
async fn provoked<DB: Backend>(connection: &mut DB::Connection, fault: Fault) -> sqlx::Error {
    match DB::provoke(fault) {
        None => connection_reset(),
        Some(Provocation::Send(sql)) => {
            let answer = DB::send_text(connection, sql.to_owned()).await;
            answer.error.unwrap_or_else(|| injected(FailureKind::Other))
        }
        Some(Provocation::Pretend(kind)) => injected(kind),
    }
}

fn injected(kind: FailureKind) -> sqlx::Error {
    SyntheticError::Failed(Failure::new(kind, "an injected fault").retryable(true)).into()
}

fn connection_reset() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, "an injected fault"))
}
