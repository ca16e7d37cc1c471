//! The few operations that the crate itself performs on a connection, with sqlx's bounds hidden behind them.
//!
//! They are implemented database by database: over a generic one the compiler cannot show that `&mut Connection` is an
//! executor without the bounds leaking into every signature above.

use futures_core::future::BoxFuture;
use sqlx::Database;

use super::{Facts, NotSent};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{asks_nowait, column_compared_with_null, is_update_or_delete};

/// The answers to a text of one or more statements.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Reply {
    /// How many statements were answered without an error.
    pub completed: usize,
    /// The first column of each row, where it is an integer.
    pub integers: Vec<i64>,
    /// The first column of each row, where it is text.
    pub texts: Vec<String>,
    /// What ended the text early.
    pub error: Option<sqlx::Error>,
}

/// Keys, and the number that the row of each holds, where it holds one.
pub(crate) type Numbers<K> = Vec<(K, Option<i64>)>;

/// What a database can be asked to do by the generic code above.
#[doc(hidden)]
pub trait Wire: Database<Arguments: Clone + std::fmt::Debug + Sync, Statement: Sync> {
    /// Sends a text of one or more statements in one round trip and reads all answers.
    fn send_text(connection: &mut Self::Connection, sql: String) -> BoxFuture<'_, Reply>;

    /// Runs one statement with its arguments and answers how many rows it touched.
    fn run_statement(
        connection: &mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>>;

    /// Runs one statement with its arguments and answers the first column of its rows.
    fn fetch_column<'c, K: Key<Self>>(
        connection: &'c mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'c, Result<Vec<K>, sqlx::Error>>;

    /// Sends a text of one or more statements and answers the last column of each row, where it is text.
    fn fetch_text(
        connection: &mut Self::Connection,
        sql: String,
    ) -> BoxFuture<'_, Result<Vec<String>, sqlx::Error>>;

    /// Finds out whether the worker thread of an embedded database is still there.
    fn ping(connection: &mut Self::Connection) -> BoxFuture<'_, Result<(), sqlx::Error>>;

    /// A row as text: its columns and their values, as far as they are of the usual types.
    fn show_row(row: &Self::Row) -> String;

    /// How many rows a statement touched.
    fn rows_affected(result: &Self::QueryResult) -> u64;

    /// Runs one statement with its arguments and answers the first two columns of its rows: a key and a number.
    fn fetch_numbers<'c, K: Key<Self>>(
        connection: &'c mut Self::Connection,
        statement: WatchedQuery<Self>,
    ) -> BoxFuture<'c, Result<Numbers<K>, sqlx::Error>>;
}

/// What can be the key of a row: whatever sqlx can send and read back, and Rust can put in order.
pub trait Key<DB: Database>:
    Ord
    + Clone
    + Send
    + Sync
    + 'static
    + sqlx::Type<DB>
    + for<'q> sqlx::Encode<'q, DB>
    + for<'r> sqlx::Decode<'r, DB>
{
}

impl<DB: Database, K> Key<DB> for K where
    K: Ord
        + Clone
        + Send
        + Sync
        + 'static
        + sqlx::Type<DB>
        + for<'q> sqlx::Encode<'q, DB>
        + for<'r> sqlx::Decode<'r, DB>
{
}

/// A query taken apart: so that its text can be looked at, and so that it can be run again.
#[doc(hidden)]
pub struct WatchedQuery<DB: Database> {
    sql: sqlx::SqlStr,
    arguments: Option<DB::Arguments>,
    statement: Option<DB::Statement>,
    persistent: bool,
}

impl<DB: Database> WatchedQuery<DB> {
    /// Takes a query apart; an error is one of encoding its arguments.
    pub(crate) fn new<'q>(mut query: impl sqlx::Execute<'q, DB>) -> Result<Self, sqlx::Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let persistent = query.persistent();
        let statement = query.statement().cloned();
        Ok(Self { sql: query.sql(), arguments, statement, persistent })
    }

    /// A query made here. Its text depends on how much it asks for, so it is not worth preparing.
    pub(crate) fn made_of(sql: sqlx::SqlStr, arguments: DB::Arguments) -> Self {
        Self { sql, arguments: Some(arguments), statement: None, persistent: false }
    }

    /// The same query, prepared once and kept by the connection.
    pub(crate) fn kept(self, persistent: bool) -> Self {
        Self { persistent, ..self }
    }

    pub(crate) fn sql(&self) -> &str {
        self.sql.as_str()
    }

    /// The text, to be kept.
    pub(crate) fn text(&self) -> sqlx::SqlStr {
        self.sql.clone()
    }

    /// Whether the text asks not to wait for locks.
    pub(crate) fn asks_nowait(&self) -> bool
    where
        DB: Facts,
    {
        asks_nowait(DB::SYNTAX, self.sql())
    }

    /// The values that are bound, where they can be read.
    pub(crate) fn shown_arguments(&self) -> Option<Vec<String>>
    where
        DB: Facts,
    {
        let arguments = self.arguments.as_ref()?;
        DB::shown_arguments(&format!("{arguments:?}"))
    }

    /// Whether values are bound to it.
    pub(crate) fn has_arguments(&self) -> bool {
        self.arguments.as_ref().is_some_and(|arguments| sqlx::Arguments::len(arguments) > 0)
    }

    /// About how many bytes it has on the wire, or any number above `limit` if it is more than that.
    fn size_up_to(&self, limit: usize) -> usize
    where
        DB: Wire,
    {
        let text = self.sql().len();
        match &self.arguments {
            Some(arguments) if text <= limit => text + shown_bytes_up_to(arguments, limit - text),
            _ => text,
        }
    }

    /// Whether it is a statement with values in its WHERE, maybe.
    pub(crate) fn may_compare_with_null(&self) -> bool {
        self.has_arguments() && is_update_or_delete(self.sql())
    }

    /// The column that the statement compares with a bound NULL, which no row can satisfy.
    pub(crate) fn column_compared_with_null(&self) -> Option<String>
    where
        DB: Facts,
    {
        let values = self.shown_arguments()?;
        column_compared_with_null(DB::SYNTAX, self.sql(), |number| {
            number.checked_sub(1).and_then(|place| values.get(place)).is_some_and(|value| value == "NULL")
        })
    }

    /// The driver's error, or that the statement is larger than what the server reads: it closes the
    /// connection then, often before the driver has sent all of it, and so before the driver looks for the
    /// server's own error.
    pub(crate) fn or_too_large(&self, error: sqlx::Error, max_packet: usize) -> sqlx::Error
    where
        DB: Wire,
    {
        let is_cut_off = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
        if !is_cut_off || max_packet == 0 || self.size_up_to(max_packet) <= max_packet {
            return error;
        }
        let message = format!(
            "the statement is larger than the server's max_allowed_packet of {max_packet} bytes, and was \
             not run: send \
             less at a time, or raise max_allowed_packet"
        );
        let failure = Failure::new(FailureKind::Other, message).with_code("1153").spoiling_session(true);
        sqlx::Error::Database(Box::new(NotSent(failure)))
    }

    /// Whether the text goes to the server as it is, and so may hold several statements.
    pub(crate) fn is_plain_text(&self) -> bool {
        self.arguments.is_none()
    }
}

impl<DB: Wire> Clone for WatchedQuery<DB> {
    fn clone(&self) -> Self {
        Self {
            sql: self.sql.clone(),
            arguments: self.arguments.clone(),
            statement: self.statement.clone(),
            persistent: self.persistent,
        }
    }
}

impl<DB: Database> std::fmt::Debug for WatchedQuery<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedQuery").field("sql", &self.sql()).finish_non_exhaustive()
    }
}

impl<'q, DB: Database> sqlx::Execute<'q, DB> for WatchedQuery<DB> {
    fn sql(self) -> sqlx::SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&DB::Statement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// The number of bytes in what a driver shows of its arguments: a list of decimal numbers, the only way in
/// which it shows them. Stops counting above `limit`.
fn shown_bytes_up_to(arguments: &impl std::fmt::Debug, limit: usize) -> usize {
    struct Numbers {
        count: usize,
        limit: usize,
    }

    impl std::fmt::Write for Numbers {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let begins_with_digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
            self.count += usize::from(begins_with_digit);
            if self.count > self.limit { Err(std::fmt::Error) } else { Ok(()) }
        }
    }

    let mut numbers = Numbers { count: 0, limit };
    let _ = std::fmt::write(&mut numbers, format_args!("{arguments:?}"));
    numbers.count
}

/// Implements [`Wire`] for one of sqlx's databases.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! wire {
    ($database:ty) => {
        impl crate::backend::query::Wire for $database {
            fn send_text(
                connection: &mut Self::Connection,
                sql: String,
            ) -> futures_core::future::BoxFuture<'_, crate::backend::query::Reply> {
                use futures_util::StreamExt as _;
                use sqlx::{Executor as _, Row as _};

                Box::pin(async move {
                    let mut reply = crate::backend::query::Reply::default();
                    let mut answers = connection.fetch_many(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)));
                    while let Some(answer) = answers.next().await {
                        match answer {
                            Ok(sqlx::Either::Left(_)) => reply.completed += 1,
                            Ok(sqlx::Either::Right(row)) => match row.try_get::<i64, _>(0) {
                                Ok(integer) => reply.integers.push(integer),
                                Err(_) => reply.texts.extend(row.try_get::<String, _>(0).ok()),
                            },
                            Err(error) => reply.error = Some(error),
                        }
                    }
                    if <Self as crate::backend::Facts>::ENDS_SILENTLY
                        && reply.completed == 0
                        && reply.error.is_none()
                    {
                        reply.error = Some(sqlx::Error::WorkerCrashed);
                    }
                    reply
                })
            }

            fn run_statement(
                connection: &mut Self::Connection,
                statement: crate::backend::query::WatchedQuery<Self>,
            ) -> futures_core::future::BoxFuture<'_, Result<u64, sqlx::Error>> {
                use sqlx::Executor as _;

                Box::pin(async move {
                    let rows = connection.execute(statement).await?.rows_affected();
                    if rows == 0 && <Self as crate::backend::Facts>::ENDS_SILENTLY {
                        Self::ping(connection).await?;
                    }
                    Ok(rows)
                })
            }

            fn fetch_column<'c, K: crate::backend::Key<Self>>(
                connection: &'c mut Self::Connection,
                statement: crate::backend::query::WatchedQuery<Self>,
            ) -> futures_core::future::BoxFuture<'c, Result<Vec<K>, sqlx::Error>> {
                use sqlx::{Executor as _, Row as _};

                Box::pin(async move {
                    connection.fetch_all(statement).await?.iter().map(|row| row.try_get(0)).collect()
                })
            }

            fn fetch_text(
                connection: &mut Self::Connection,
                sql: String,
            ) -> futures_core::future::BoxFuture<'_, Result<Vec<String>, sqlx::Error>> {
                use sqlx::{Executor as _, Row as _};

                Box::pin(async move {
                    let rows = connection.fetch_all(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await?;
                    Ok(rows.iter().filter_map(|row| row.try_get(row.len().checked_sub(1)?).ok()).collect())
                })
            }

            fn ping(
                connection: &mut Self::Connection,
            ) -> futures_core::future::BoxFuture<'_, Result<(), sqlx::Error>> {
                Box::pin(async move {
                    // A worker that is dying takes the question and answers nothing. It takes no second one.
                    let patience = std::time::Duration::from_millis(10);
                    loop {
                        let ping = sqlx::Connection::ping(&mut *connection);
                        if let Ok(answer) = tokio::time::timeout(patience, ping).await {
                            return answer;
                        }
                    }
                })
            }

            fn show_row(row: &Self::Row) -> String {
                use sqlx::{Column as _, Row as _};

                let shown: Vec<String> = row
                    .columns()
                    .iter()
                    .map(|column| {
                        let value = crate::backend::values::shown!(row, column.ordinal());
                        format!("{} = {value}", column.name())
                    })
                    .collect();
                shown.join(", ")
            }

            fn rows_affected(result: &Self::QueryResult) -> u64 {
                result.rows_affected()
            }

            fn fetch_numbers<'c, K: crate::backend::Key<Self>>(
                connection: &'c mut Self::Connection,
                statement: crate::backend::query::WatchedQuery<Self>,
            ) -> futures_core::future::BoxFuture<'c, Result<crate::backend::query::Numbers<K>, sqlx::Error>>
            {
                use sqlx::{Executor as _, Row as _};

                Box::pin(async move {
                    let rows = connection.fetch_all(statement).await?;
                    if rows.is_empty() && <Self as crate::backend::Facts>::ENDS_SILENTLY {
                        Self::ping(connection).await?;
                    }
                    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
                })
            }
        }
    };
}
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(super) use wire;
