//! `&mut Tx` as a [`sqlx::Executor`].
//!
//! Written once as a macro and not as a generic impl: over any `DB` the compiler does not see that `&mut DB::Connection`
//! is an executor of `DB` (sqlx has the same comment on its own `Transaction`).

use std::future::Future;

use crate::backend::{Backend, WatchedQuery};

use super::Tx;
use super::journal::{Journal, admit};

/// Runs one statement under the eyes of the journal.
pub(super) async fn watch<'c, DB: Backend, T, Fut>(
    journal: &'c mut Journal,
    connection: &'c mut DB::Connection,
    query: Result<WatchedQuery<DB>, sqlx::Error>,
    run: impl FnOnce(&'c mut DB::Connection, WatchedQuery<DB>) -> Fut,
) -> Result<T, sqlx::Error>
where
    Fut: Future<Output = Result<T, sqlx::Error>> + 'c,
{
    let query = query?;
    admit(journal, connection, &query).await?;
    let nowait = query.asks_nowait();
    journal.begin_statement();
    let result = run(connection, query).await;
    journal.end_statement::<DB, _>(result, nowait, true)
}

impl<DB: Backend> Tx<DB> {
    pub(super) fn parts(&mut self) -> (&mut Journal, &mut DB::Connection) {
        (&mut self.journal, self.session.connection())
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
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(query);
                Box::pin(watch(journal, connection, query, |connection, query| connection.execute(query)))
            }

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, Result<Answer<$database>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(query);
                Box::pin(async_stream::try_stream! {
                    let query = query?;
                    admit(journal, connection, &query).await?;
                    let nowait = query.asks_nowait();
                    let mut answers = connection.fetch_many(query);
                    loop {
                        journal.begin_statement();
                        let answer = answers.next().await.transpose();
                        let complete = matches!(answer, Ok(None));
                        match journal.end_statement::<$database, _>(answer, nowait, complete)? {
                            Some(answer) => yield answer,
                            None => break,
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
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(query);
                Box::pin(watch(journal, connection, query, |connection, query| connection.fetch_all(query)))
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<<$database as Database>::Row>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, $database>,
            {
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(query);
                Box::pin(watch(journal, connection, query, |connection, query| {
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
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(sql.clone());
                Box::pin(watch::<$database, _, _>(journal, connection, query, move |connection, _| {
                    connection.prepare_with(sql, parameters)
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
                let (journal, connection) = self.parts();
                let query = WatchedQuery::new(sql.clone());
                Box::pin(watch::<$database, _, _>(journal, connection, query, move |connection, _| {
                    connection.describe(sql)
                }))
            }
        }
    };
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod databases {
    use futures_core::future::BoxFuture;
    use futures_core::stream::BoxStream;
    use futures_util::StreamExt as _;
    use sqlx::Database;

    use super::*;

    type Answer<DB> = sqlx::Either<<DB as Database>::QueryResult, <DB as Database>::Row>;

    #[cfg(feature = "mysql")]
    executor!(sqlx::MySql);
    #[cfg(feature = "postgres")]
    executor!(sqlx::Postgres);
    #[cfg(feature = "sqlite")]
    executor!(sqlx::Sqlite);
}
