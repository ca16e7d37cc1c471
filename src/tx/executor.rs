//! `&mut Tx` as a [`sqlx::Executor`].
//!
//! One implementation for all databases: [`Wire`](crate::backend::Wire) hides the bound that
//! `&mut DB::Connection` is an executor.

use std::future::ready;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{Either, SqlStr};

use crate::backend::{Backend, Engine, ResultOrRow, WatchedQuery};
use crate::boxed::boxed;
use crate::intercept::StatementAnswer;

use super::admit::admit;
use super::state::TxState;
use super::{Interception, Tx};

/// The parts of a transaction that a statement uses.
pub(super) struct StatementParts<'c, DB: Backend> {
    pub(super) state: &'c mut TxState,
    pub(super) connection: &'c mut DB::Connection,
    pub(super) interception: Option<&'c Interception>,
    /// The last statement, if its values may explain its failure.
    pub(super) latest: &'c mut Option<WatchedQuery<DB>>,
    pub(super) engine: Engine,
}

/// Reads the result of a statement.
#[derive(Clone, Copy)]
pub(super) struct ResultReader<T> {
    /// Describes the result to interceptors.
    pub(super) answer: fn(&T) -> StatementAnswer,
    /// Whether the result is empty. A driver that lost its connection may return an empty result and no
    /// error.
    pub(super) is_empty: fn(&T) -> bool,
}

/// Runs one statement: records its result in the state, and passes it through the interceptors.
///
/// Not an `async fn`, whose future would hold its parameters twice. The future stays below 1 KiB, because the
/// allocator serves larger ones much more slowly; what is rare is therefore boxed.
pub(super) fn watch<'c, DB: Backend, T: Send + 'c>(
    parts: StatementParts<'c, DB>,
    query: Result<WatchedQuery<DB>, sqlx::Error>,
    reader: ResultReader<T>,
    run: impl for<'x> Fn(&'x mut DB::Connection, WatchedQuery<DB>) -> BoxFuture<'x, Result<T, sqlx::Error>>
    + Send
    + Sync
    + 'c,
) -> BoxFuture<'c, Result<T, sqlx::Error>> {
    let StatementParts { state, connection, interception, latest, engine } = parts;
    let query = match query {
        Ok(query) => query,
        Err(error) => return Box::pin(ready(Err(error))),
    };
    boxed(|| async move {
        admit(state, connection, &query).await?;
        let text = query.text();
        state.begin_statement(|| text.clone());
        let compares_null = query.may_compare_with_null();
        *latest = (compares_null || engine.max_packet > 0).then(|| query.clone());
        let mut result = match interception {
            None => run(connection, query).await,
            Some(interception) => Box::pin(interception.run(connection, &query, reader.answer, run)).await,
        };
        if DB::ENDS_SILENTLY && result.as_ref().is_ok_and(reader.is_empty) {
            let is_alive = DB::ping(connection).await;
            result = is_alive.and(result);
        }
        if let Some(sent) = latest.take_if(|_| result.is_err() || !compares_null) {
            result = result.map_err(|error| sent.explain_if_oversized(error, engine.max_packet));
        }
        state.end_statement::<DB, _>(result, &text, true)
    })
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
        watch(self.parts(), WatchedQuery::new(query), done::<DB>(), DB::send_statement)
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
            let text = query.text();
            state.begin_statement(|| text.clone());
            if let Some(interception) = interception {
                // Interceptors receive the result of a statement as a whole.
                let answers = interception
                    .run::<DB, _>(connection, &query, all::<DB>, |connection, query| {
                        Box::pin(DB::send_for_results(connection, query).try_collect::<Vec<_>>())
                    })
                    .await;
                for answer in state.end_statement::<DB, _>(answers, &text, true)? {
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
                    if let Some(answer) = state.end_statement::<DB, _>(answer, &text, false)? {
                        yield answer;
                    }
                }
                drop(answers);
                let end = if is_done { Ok(()) } else { DB::ping(connection).await };
                state.end_statement::<DB, _>(end, &text, true)?;
            }
        })
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        watch(self.parts(), WatchedQuery::new(query), rows::<DB>(), DB::send_for_rows)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + sqlx::Execute<'q, DB>,
    {
        watch(self.parts(), WatchedQuery::new(query), row::<DB>(), DB::send_for_row)
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
        watch::<DB, _>(self.parts(), query, nothing(), move |connection, _| {
            DB::prepare_statement(connection, sql.clone(), parameters.clone())
        })
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<DB>, sqlx::Error>>
    where
        'c: 'e,
    {
        let query = WatchedQuery::new(sql.clone());
        watch::<DB, _>(self.parts(), query, nothing(), move |connection, _| {
            DB::describe_statement(connection, sql.clone())
        })
    }
}

const fn nothing<T>() -> ResultReader<T> {
    ResultReader { answer: |_| StatementAnswer::default(), is_empty: |_| false }
}

fn done<DB: Backend>() -> ResultReader<DB::QueryResult> {
    ResultReader {
        answer: |result| StatementAnswer::affected(DB::rows_affected(result)),
        is_empty: |result| DB::rows_affected(result) == 0,
    }
}

fn row<DB: Backend>() -> ResultReader<Option<DB::Row>> {
    ResultReader { answer: |row| StatementAnswer::of_rows(row, DB::show_row), is_empty: Option::is_none }
}

pub(super) fn rows<DB: Backend>() -> ResultReader<Vec<DB::Row>> {
    ResultReader { answer: |rows| StatementAnswer::of_rows(rows, DB::show_row), is_empty: Vec::is_empty }
}

fn all<DB: Backend>(answers: &Vec<ResultOrRow<DB>>) -> StatementAnswer {
    let mut all = StatementAnswer::default();
    for answer in answers {
        match answer {
            Either::Left(result) => {
                all.rows_affected = Some(all.rows_affected.unwrap_or(0) + DB::rows_affected(result));
            }
            Either::Right(row) => all.add_row(row, DB::show_row),
        }
    }
    all
}
