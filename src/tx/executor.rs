//! `&mut Tx` as a [`sqlx::Executor`].
//!
//! Written once as a macro and not as a generic impl: over any `DB` the compiler does not see that `&mut DB::Connection`
//! is an executor of `DB` (sqlx has the same comment on its own `Transaction`).

use futures_core::future::BoxFuture;

use crate::backend::{Backend, WatchedQuery};
use crate::intercept::Answer;

use super::journal::{Journal, admit};
use super::{Interception, Tx};

/// What a statement needs of its transaction.
pub(super) struct Parts<'c, DB: Backend> {
    pub(super) journal: &'c mut Journal,
    pub(super) connection: &'c mut DB::Connection,
    pub(super) interception: Option<&'c Interception>,
}

/// Runs one statement under the eyes of the journal, and past the interceptor, if there is one, which is `told` what
/// the statement answered.
pub(super) async fn watch<DB: Backend, T>(
    parts: Parts<'_, DB>,
    query: Result<WatchedQuery<DB>, sqlx::Error>,
    told: fn(&T) -> Answer,
    run: impl for<'x> Fn(&'x mut DB::Connection, WatchedQuery<DB>) -> BoxFuture<'x, Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Parts { journal, connection, interception } = parts;
    let query = query?;
    admit(journal, connection, &query).await?;
    let nowait = query.asks_nowait();
    journal.begin_statement(|| query.text());
    let result = match interception {
        None => run(connection, query).await,
        Some(interception) => interception.run(connection, &query, told, run).await,
    };
    journal.end_statement::<DB, _>(result, nowait, true)
}

impl<DB: Backend> Tx<DB> {
    pub(super) fn parts(&mut self) -> Parts<'_, DB> {
        Parts {
            journal: &mut self.journal,
            connection: self.session.connection(),
            interception: self.interception.as_ref(),
        }
    }
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! executor {
    ($database:ty) => {
        impl<'c> sqlx::Executor<'c> for &'c mut Tx<$database> {
            type Database = $database;

            fn execute<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<<$database as Database>::QueryResult, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let query = WatchedQuery::new(query);
                Box::pin(watch(self.parts(), query, done::<$database>, |connection, query| {
                    connection.execute(query)
                }))
            }

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, Result<Either<$database>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let Parts { journal, connection, interception } = self.parts();
                let query = WatchedQuery::new(query);
                Box::pin(async_stream::try_stream! {
                    let query = query?;
                    admit(journal, connection, &query).await?;
                    let nowait = query.asks_nowait();
                    if let Some(interception) = interception {
                        journal.begin_statement(|| query.text());
                        // An interceptor is told of a statement as a whole.
                        let answers = interception
                            .run::<$database, _>(connection, &query, all::<$database>, |connection, query| {
                                Box::pin(connection.fetch_many(query).try_collect::<Vec<_>>())
                            })
                            .await;
                        for answer in journal.end_statement::<$database, _>(answers, nowait, true)? {
                            yield answer;
                        }
                    } else {
                        journal.begin_statement(|| query.text());
                        let mut answers = connection.fetch_many(query);
                        loop {
                            journal.resume_statement();
                            let answer = answers.next().await.transpose();
                            let complete = matches!(answer, Ok(None));
                            match journal.end_statement::<$database, _>(answer, nowait, complete)? {
                                Some(answer) => yield answer,
                                None => break,
                            }
                        }
                    }
                })
            }

            fn fetch_all<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Vec<<$database as Database>::Row>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let query = WatchedQuery::new(query);
                Box::pin(watch(self.parts(), query, rows::<$database>, |connection, query| {
                    connection.fetch_all(query)
                }))
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<<$database as Database>::Row>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let query = WatchedQuery::new(query);
                Box::pin(watch(self.parts(), query, row::<$database>, |connection, query| {
                    connection.fetch_optional(query)
                }))
            }

            fn prepare_with<'e>(
                self,
                sql: sqlx::SqlStr,
                parameters: &'e [<$database as Database>::TypeInfo],
            ) -> BoxFuture<'e, Result<<$database as Database>::Statement, sqlx::Error>>
            where
                'c: 'e,
            {
                let query = WatchedQuery::new(sql.clone());
                let parameters = parameters.to_vec();
                Box::pin(watch::<$database, _>(self.parts(), query, nothing, move |connection, _| {
                    let (sql, parameters) = (sql.clone(), parameters.clone());
                    Box::pin(async move { connection.prepare_with(sql, &parameters).await })
                }))
            }

            #[doc(hidden)]
            fn describe<'e>(
                self,
                sql: sqlx::SqlStr,
            ) -> BoxFuture<'e, Result<sqlx::Describe<$database>, sqlx::Error>>
            where
                'c: 'e,
            {
                let query = WatchedQuery::new(sql.clone());
                Box::pin(watch::<$database, _>(self.parts(), query, nothing, move |connection, _| {
                    connection.describe(sql.clone())
                }))
            }
        }
    };
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod databases {
    use futures_core::future::BoxFuture;
    use futures_core::stream::BoxStream;
    use futures_util::{StreamExt as _, TryStreamExt as _};
    use sqlx::Database;

    use super::*;

    type Either<DB> = sqlx::Either<<DB as Database>::QueryResult, <DB as Database>::Row>;

    fn nothing<T>(_: &T) -> Answer {
        Answer::default()
    }

    fn done<DB: Backend>(result: &DB::QueryResult) -> Answer {
        Answer::affected(DB::rows_affected(result))
    }

    fn row<DB: Backend>(row: &Option<DB::Row>) -> Answer {
        Answer::of_rows(row, DB::show_row)
    }

    fn rows<DB: Backend>(rows: &Vec<DB::Row>) -> Answer {
        Answer::of_rows(rows, DB::show_row)
    }

    fn all<DB: Backend>(answers: &Vec<Either<DB>>) -> Answer {
        let mut told = Answer::default();
        for answer in answers {
            match answer {
                sqlx::Either::Left(result) => {
                    told.rows_affected = Some(told.rows_affected.unwrap_or(0) + DB::rows_affected(result));
                }
                sqlx::Either::Right(row) => told.add_row(row, DB::show_row),
            }
        }
        told
    }

    #[cfg(feature = "mysql")]
    executor!(sqlx::MySql);
    #[cfg(feature = "postgres")]
    executor!(sqlx::Postgres);
    #[cfg(feature = "sqlite")]
    executor!(sqlx::Sqlite);
}
