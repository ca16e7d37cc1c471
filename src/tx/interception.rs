//! How the steps of a transaction pass an interceptor.

use std::io;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use crate::backend::shown;
use crate::backend::{Backend, Injected, Provocation, Reply, WatchedQuery, failure_of};
use crate::failure::{Failure, FailureKind};
use crate::intercept::{Fault, Interceptors, Next, StatementAnswer, Step, StepKind, TransactionToken};

/// The interceptors, and what they are told about each step of one transaction.
pub(crate) struct Interception {
    by: Interceptors,
    attempts: Attempts,
    session: Option<i64>,
    /// What the token of this transaction points to.
    in_use: Arc<()>,
}

/// Which attempt it is, and of how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempts {
    pub(crate) number: u32,
    pub(crate) most: u32,
}

impl Interception {
    pub(crate) async fn new<DB: Backend>(
        by: Interceptors,
        attempts: Attempts,
        connection: &mut DB::Connection,
    ) -> Self {
        let session = match DB::SESSION_ID_QUERY {
            Some(ask) if by.want_sessions() => {
                DB::send_text(connection, ask.to_owned()).await.integers.first().copied()
            }
            _ => None,
        };
        Self { by, attempts, session, in_use: Arc::new(()) }
    }

    fn step(&self, kind: StepKind, sql: &str) -> Step {
        Step {
            kind,
            attempt: self.attempts.number,
            max_attempts: self.attempts.most,
            transaction: TransactionToken::of(&self.in_use),
            sql: sql.to_owned(),
            arguments: None,
            session: self.session,
        }
    }

    /// The unit has asked for the connection itself.
    pub(super) fn unwatched(&self) {
        self.by.unwatched();
    }

    fn statement<DB: Backend>(&self, query: &WatchedQuery<DB>) -> Step {
        Step { arguments: query.argument_texts(), ..self.step(StepKind::Statement, query.sql()) }
    }

    async fn before(&self, step: &Step) -> Option<Fault> {
        self.by.before(step).await
    }

    /// Whether the step is to be sent again.
    async fn after(&self, step: &Step, answer: &StatementAnswer) -> bool {
        self.by.after(step, answer).await == Next::SendAgain
    }

    /// Runs a statement as often as it takes.
    pub(crate) async fn run<DB: Backend, T>(
        &self,
        connection: &mut DB::Connection,
        query: &WatchedQuery<DB>,
        told: fn(&T) -> StatementAnswer,
        run: impl for<'x> Fn(&'x mut DB::Connection, WatchedQuery<DB>) -> BoxFuture<'x, Result<T, sqlx::Error>>,
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
                Ok(output) => told(output),
                Err(error) => failed::<DB>(error, query.has_nowait()),
            };
            if !self.after(&step, &answer).await {
                return result;
            }
        }
    }

    /// Sends a text of the crate's own, or what is left of it, as often as it takes.
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
                    // A COMMIT that fails has ended the transaction.
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

/// Sends a text of the crate's own past the interceptor, if there is one.
pub(super) async fn send<DB: Backend>(
    interception: Option<&Interception>,
    connection: &mut DB::Connection,
    kind: StepKind,
    sql: String,
) -> Reply {
    match interception {
        None => DB::send_text(connection, sql).await,
        // In a box of its own: in place, it would be in the future of every run.
        Some(interception) => Box::pin(interception.send::<DB>(connection, kind, sql)).await,
    }
}

fn failed<DB: Backend>(error: &sqlx::Error, nowait: bool) -> StatementAnswer {
    let failure = failure_of::<DB>(error, nowait);
    StatementAnswer::failed(failure.unwrap_or_else(|| Failure::new(FailureKind::Other, shown(error))))
}

/// The error of a fault that keeps a step from reaching the server: the server's own, where it can be made to
/// raise it.
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
    sqlx::Error::Database(Box::new(Injected(Failure::new(kind, "an injected fault").retryable(true))))
}

fn connection_reset() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, "an injected fault"))
}
