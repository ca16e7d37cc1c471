//! `&mut Tx` as a [`sqlx::Executor`].
//!
//! One implementation for all databases: that `&mut DB::Connection` is an executor of `DB` is known behind
//! [`Wire`](crate::backend::Wire), and not needed here.

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{Either, SqlStr};

use crate::backend::{Backend, Engine, ResultOrRow, WatchedQuery};
use crate::intercept::StatementAnswer;

use super::state::{TxState, admit};
use super::{Interception, Tx};

/// What a statement needs of its transaction.
pub(super) struct StatementParts<'c, DB: Backend> {
    pub(super) state: &'c mut TxState,
    pub(super) connection: &'c mut DB::Connection,
    pub(super) interception: Option<&'c Interception>,
    /// The last statement, where its values may explain its failure.
    pub(super) latest: &'c mut Option<WatchedQuery<DB>>,
    pub(super) engine: Engine,
}

/// What is done with the output of a statement.
#[derive(Clone, Copy)]
pub(super) struct Reading<T> {
    /// What interceptors are told.
    pub(super) told: fn(&T) -> StatementAnswer,
    /// Whether it is what a driver answers that has lost its connection without a word.
    pub(super) is_nothing: fn(&T) -> bool,
}

/// Runs one statement under the eyes of the state, and past the interceptor, if there is one.
pub(super) async fn watch<DB: Backend, T>(
    parts: StatementParts<'_, DB>,
    query: Result<WatchedQuery<DB>, sqlx::Error>,
    reading: Reading<T>,
    run: impl for<'x> Fn(&'x mut DB::Connection, WatchedQuery<DB>) -> BoxFuture<'x, Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let StatementParts { state, connection, interception, latest, engine } = parts;
    let query = query?;
    admit(state, connection, &query).await?;
    let nowait = query.has_nowait();
    state.begin_statement(|| query.text());
    let limits_packets = engine.max_packet > 0;
    *latest = (limits_packets || query.may_compare_with_null()).then(|| query.clone());
    let mut result = match interception {
        None => run(connection, query).await,
        Some(interception) => interception.run(connection, &query, reading.told, run).await,
    };
    if DB::ENDS_SILENTLY && result.as_ref().is_ok_and(reading.is_nothing) {
        let is_alive = DB::ping(connection).await;
        result = is_alive.and(result);
    }
    if let Some(sent) = latest.take_if(|query| result.is_err() || !query.may_compare_with_null()) {
        result = result.map_err(|error| sent.explain_if_oversized(error, engine.max_packet));
    }
    state.end_statement::<DB, _>(result, nowait, true)
}

impl<DB: Backend> Tx<DB> {
    pub(super) fn parts(&mut self) -> StatementParts<'_, DB> {
        StatementParts {
            state: &mut self.state,
            connection: self.session.connection(),
            interception: self.interception.as_ref(),
            latest: &mut self.latest,
            engine: self.closing.engine,
        }
    }
}

impl<'c, DB: Backend> sqlx::Executor<'c> for &'c mut Tx<DB> {
    type Database = DB;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        Box::pin(watch(self.parts(), WatchedQuery::new(query), done::<DB>(), DB::send_statement))
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<ResultOrRow<DB>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        let StatementParts { state, connection, interception, .. } = self.parts();
        let query = WatchedQuery::new(query);
        Box::pin(async_stream::try_stream! {
            let query = query?;
            admit(state, connection, &query).await?;
            let nowait = query.has_nowait();
            state.begin_statement(|| query.text());
            if let Some(interception) = interception {
                // An interceptor is told of a statement as a whole.
                let answers = interception
                    .run::<DB, _>(connection, &query, all::<DB>, |connection, query| {
                        Box::pin(DB::send_for_results(connection, query).try_collect::<Vec<_>>())
                    })
                    .await;
                for answer in state.end_statement::<DB, _>(answers, nowait, true)? {
                    yield answer;
                }
            } else {
                let mut answers = DB::send_for_results(&mut *connection, query);
                let mut is_done = !DB::ENDS_SILENTLY;
                loop {
                    state.resume_statement();
                    let answer = answers.next().await.transpose();
                    if matches!(answer, Ok(None)) {
                        break;
                    }
                    is_done |= matches!(answer, Ok(Some(Either::Left(_))));
                    if let Some(answer) = state.end_statement::<DB, _>(answer, nowait, false)? {
                        yield answer;
                    }
                }
                drop(answers);
                let end = if is_done { Ok(()) } else { DB::ping(connection).await };
                state.end_statement::<DB, _>(end, nowait, true)?;
            }
        })
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        Box::pin(watch(self.parts(), WatchedQuery::new(query), rows::<DB>(), DB::send_for_rows))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        Box::pin(watch(self.parts(), WatchedQuery::new(query), row::<DB>(), DB::send_for_row))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, sqlx::Error>>
    where
        'c: 'e,
    {
        let (query, parameters) = (WatchedQuery::new(sql.clone()), parameters.to_vec());
        Box::pin(watch::<DB, _>(self.parts(), query, nothing(), move |connection, _| {
            DB::prepare_statement(connection, sql.clone(), parameters.clone())
        }))
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<DB>, sqlx::Error>>
    where
        'c: 'e,
    {
        let query = WatchedQuery::new(sql.clone());
        Box::pin(watch::<DB, _>(self.parts(), query, nothing(), move |connection, _| {
            DB::describe_statement(connection, sql.clone())
        }))
    }
}

const fn nothing<T>() -> Reading<T> {
    Reading { told: |_| StatementAnswer::default(), is_nothing: |_| false }
}

fn done<DB: Backend>() -> Reading<DB::QueryResult> {
    Reading {
        told: |result| StatementAnswer::affected(DB::rows_affected(result)),
        is_nothing: |result| DB::rows_affected(result) == 0,
    }
}

fn row<DB: Backend>() -> Reading<Option<DB::Row>> {
    Reading { told: |row| StatementAnswer::of_rows(row, DB::show_row), is_nothing: Option::is_none }
}

pub(super) fn rows<DB: Backend>() -> Reading<Vec<DB::Row>> {
    Reading { told: |rows| StatementAnswer::of_rows(rows, DB::show_row), is_nothing: Vec::is_empty }
}

fn all<DB: Backend>(answers: &Vec<ResultOrRow<DB>>) -> StatementAnswer {
    let mut told = StatementAnswer::default();
    for answer in answers {
        match answer {
            Either::Left(result) => {
                told.rows_affected = Some(told.rows_affected.unwrap_or(0) + DB::rows_affected(result));
            }
            Either::Right(row) => told.add_row(row, DB::show_row),
        }
    }
    told
}
