//! Sends SQL on a connection of any database.
//!
//! All statements, those of the crate and those of its callers, are sent by these functions.

use std::borrow::Cow;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{
    AssertSqlSafe, Connection, Database, Describe, Either, Executor, Row as _, SqlSafeStr as _, SqlStr,
};
use sqlx_core::transaction::TransactionManager;
use tokio::time::timeout;

use super::codec::{Codec, Key};
use super::query::{Reply, WatchedQuery};
use crate::boxed::boxed;

/// Properties of a driver that sqlx has no trait for.
#[doc(hidden)]
pub trait Driver: Database {
    /// Whether the driver may report success, or a result without rows, after it has lost its connection.
    const ENDS_SILENTLY: bool = false;

    /// Whether the driver reads all results of a text, and their errors, if one row is requested.
    const READS_BEYOND_FIRST_ROW: bool = false;

    /// Whether the driver returns the first row before it has read the rest. An error that follows would be
    /// the answer to the next statement, and the row may be wrong because of it.
    const LEAVES_RESULTS_UNREAD: bool = false;

    /// Whether the driver's [`begin`](TransactionManager::begin) sends any text, skips its results, and fails
    /// with [`BeginFailed`](sqlx::Error::BeginFailed) if no transaction is open afterwards.
    const BEGIN_SENDS_ANY_TEXT: bool = false;

    /// Returns how many rows a statement affected.
    fn rows_affected(result: &Self::QueryResult) -> u64;
}

/// How long a ping of an embedded database may take before it is repeated.
const PING_PATIENCE: Duration = Duration::from_millis(10);

/// One item of a server's response: the result of a statement, or a row.
pub(crate) type ResultOrRow<DB> = Either<<DB as Database>::QueryResult, <DB as Database>::Row>;

/// Sends statements. Each is one round trip, or one more to prepare it.
#[doc(hidden)]
pub trait Wire: Codec + Driver {
    /// Runs a statement that returns no rows.
    fn send_statement(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<Self::QueryResult, sqlx::Error>>;

    /// Runs a statement, and returns its rows.
    fn send_for_rows(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>>;

    /// Runs a statement, and returns its first row.
    fn send_for_row(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<Option<Self::Row>, sqlx::Error>>;

    /// Runs a statement, and returns its rows as they arrive.
    fn send_for_results(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxStream<'_, Result<ResultOrRow<Self>, sqlx::Error>>;

    /// Prepares a statement.
    fn prepare_statement(
        connection: &mut Self::Connection,
        sql: SqlStr,
        parameters: Vec<Self::TypeInfo>,
    ) -> BoxFuture<'_, Result<Self::Statement, sqlx::Error>>;

    /// Describes the parameters and columns of a statement.
    fn describe_statement(
        connection: &mut Self::Connection,
        sql: SqlStr,
    ) -> BoxFuture<'_, Result<Describe<Self>, sqlx::Error>>;

    /// Sends a text of one or more statements in one round trip, and reads all results.
    fn send_text(connection: &mut Self::Connection, sql: String) -> BoxFuture<'_, Reply>;

    /// Sends a text of one or more statements in one round trip. Also returns the rows of the result that is
    /// followed by `after` others.
    fn send_text_for_rows(
        connection: &mut Self::Connection,
        sql: String,
        after: usize,
    ) -> BoxFuture<'_, (Reply, Vec<Self::Row>)>;

    /// Sends a text that opens a transaction and returns at most one row. Costs fewer instructions than
    /// [`send_text`](Self::send_text), because no stream of results is created.
    fn send_opening(connection: &mut Self::Connection, sql: String) -> BoxFuture<'_, Reply>;

    /// Sends a text that ends a transaction. If it is a single statement, that costs fewer instructions than
    /// [`send_text`](Self::send_text), because no stream of results is created.
    fn send_end<'c>(connection: &'c mut Self::Connection, sql: Cow<'static, str>) -> BoxFuture<'c, Reply>;

    /// Fails if the worker thread of an embedded database has ended.
    ///
    /// A worker that is ending accepts the first ping without a response, and refuses the next one.
    fn ping(connection: &mut Self::Connection) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            loop {
                let ping = Connection::ping(&mut *connection);
                if let Ok(answer) = timeout(PING_PATIENCE, ping).await {
                    return answer;
                }
            }
        })
    }

    /// Sends a text of one or more statements, and returns the last column of each row that holds text.
    fn fetch_text(
        connection: &mut Self::Connection,
        sql: String,
    ) -> BoxFuture<'_, Result<Vec<String>, sqlx::Error>>;

    /// Returns how many rows the statement affected.
    fn run_statement(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        Box::pin(async move {
            let rows = Self::rows_affected(&Self::send_statement(connection, statement).await?);
            if rows == 0 && Self::ENDS_SILENTLY {
                Self::ping(connection).await?;
            }
            Ok(rows)
        })
    }

    /// Returns the rows of a statement that also changes data.
    fn fetch_or_ping(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<Vec<Self::Row>, sqlx::Error>> {
        Box::pin(async move {
            let rows = Self::send_for_rows(connection, statement).await?;
            if rows.is_empty() && Self::ENDS_SILENTLY {
                Self::ping(connection).await?;
            }
            Ok(rows)
        })
    }

    /// Returns the first column of each row.
    fn fetch_column<'c, K: Key<Self>>(
        connection: &'c mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'c, Result<Vec<K>, sqlx::Error>> {
        Box::pin(async move {
            Self::send_for_rows(connection, statement).await?.iter().map(|row| Self::key(row, 0)).collect()
        })
    }
}

impl<DB> Wire for DB
where
    DB: Codec + Driver,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    fn send_statement(
        connection: &mut DB::Connection,
        statement: WatchedQuery<DB>,
    ) -> BoxFuture<'_, Result<DB::QueryResult, sqlx::Error>> {
        connection.execute(statement)
    }

    fn send_for_rows(
        connection: &mut DB::Connection,
        statement: WatchedQuery<DB>,
    ) -> BoxFuture<'_, Result<Vec<DB::Row>, sqlx::Error>> {
        connection.fetch_all(statement)
    }

    fn send_for_row(
        connection: &mut DB::Connection,
        statement: WatchedQuery<DB>,
    ) -> BoxFuture<'_, Result<Option<DB::Row>, sqlx::Error>> {
        if !DB::LEAVES_RESULTS_UNREAD {
            return connection.fetch_optional(statement);
        }
        boxed(|| async move {
            let mut results = connection.fetch_many(statement);
            let mut first = None;
            while let Some(result) = results.try_next().await? {
                first = first.or(result.right());
            }
            Ok(first)
        })
    }

    fn send_for_results(
        connection: &mut DB::Connection,
        statement: WatchedQuery<DB>,
    ) -> BoxStream<'_, Result<ResultOrRow<DB>, sqlx::Error>> {
        connection.fetch_many(statement)
    }

    fn prepare_statement(
        connection: &mut DB::Connection,
        sql: SqlStr,
        parameters: Vec<DB::TypeInfo>,
    ) -> BoxFuture<'_, Result<DB::Statement, sqlx::Error>> {
        Box::pin(async move { connection.prepare_with(sql, &parameters).await })
    }

    fn describe_statement(
        connection: &mut DB::Connection,
        sql: SqlStr,
    ) -> BoxFuture<'_, Result<Describe<DB>, sqlx::Error>> {
        connection.describe(sql)
    }

    fn send_text(connection: &mut DB::Connection, sql: String) -> BoxFuture<'_, Reply> {
        boxed(|| async move {
            let mut reply = Reply::default();
            let mut answers = connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql)));
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(Either::Left(_)) => reply.completed += 1,
                    Ok(Either::Right(row)) => reply.add_row::<DB>(&row),
                    Err(error) => reply.error = Some(error),
                }
            }
            if DB::ENDS_SILENTLY && reply.completed == 0 && reply.error.is_none() {
                reply.error = Some(sqlx::Error::WorkerCrashed);
            }
            reply
        })
    }

    fn send_text_for_rows(
        connection: &mut DB::Connection,
        sql: String,
        after: usize,
    ) -> BoxFuture<'_, (Reply, Vec<DB::Row>)> {
        boxed(|| async move {
            let (mut reply, mut results) = (Reply::default(), vec![Vec::new()]);
            let mut answers = connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql)));
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(Either::Left(_)) => {
                        reply.completed += 1;
                        results.push(Vec::new());
                    }
                    Ok(Either::Right(row)) => results[reply.completed].push(row),
                    Err(error) => reply.error = Some(error),
                }
            }
            let wanted = reply.completed.checked_sub(after + 1).filter(|_| reply.error.is_none());
            let rows =
                wanted.and_then(|index| results.get_mut(index)).map(std::mem::take).unwrap_or_default();
            results.iter().flatten().for_each(|row| reply.add_row::<DB>(row));
            (reply, rows)
        })
    }

    fn send_opening(connection: &mut DB::Connection, sql: String) -> BoxFuture<'_, Reply> {
        if !DB::READS_BEYOND_FIRST_ROW {
            return Self::send_text(connection, sql);
        }
        boxed(|| async move {
            let mut reply = Reply::default();
            match connection.fetch_optional(sqlx::raw_sql(AssertSqlSafe(sql))).await {
                Ok(Some(row)) => reply.add_row::<DB>(&row),
                Ok(None) => {}
                Err(error) => reply.error = Some(error),
            }
            reply
        })
    }

    fn send_end<'c>(connection: &'c mut DB::Connection, sql: Cow<'static, str>) -> BoxFuture<'c, Reply> {
        // A transaction that the unit has begun on the connection itself, and left open, would be in the way.
        let is_in_the_way = || DB::TransactionManager::get_transaction_depth(connection) > 0;
        if !DB::BEGIN_SENDS_ANY_TEXT || sql.contains(';') || is_in_the_way() {
            return Self::send_text(connection, sql.into_owned());
        }
        boxed(|| async move {
            let sql = AssertSqlSafe(sql).into_sql_str();
            match DB::TransactionManager::begin(connection, Some(sql)).await {
                Err(sqlx::Error::BeginFailed) => Reply { completed: 1, ..Reply::default() },
                Err(error) => Reply { error: Some(error), ..Reply::default() },
                Ok(()) => {
                    let open = "a transaction was still open after its end".to_owned();
                    Reply { error: Some(sqlx::Error::Protocol(open)), ..Reply::default() }
                }
            }
        })
    }

    fn fetch_text(
        connection: &mut DB::Connection,
        sql: String,
    ) -> BoxFuture<'_, Result<Vec<String>, sqlx::Error>> {
        Box::pin(async move {
            let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            let last = |row: &DB::Row| DB::text(row, row.len().checked_sub(1)?).ok().flatten();
            Ok(rows.iter().filter_map(last).collect())
        })
    }
}
