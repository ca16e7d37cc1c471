//! Statements, and what a connection answers to them.

use sqlx::{Database, SqlSafeStr as _};

use super::codec::Codec;
use super::{Facts, NotSent, Value};
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

/// Keys, each with the number that its row holds, if it holds one.
pub(crate) type Numbers<K> = Vec<(K, Option<i64>)>;

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

    /// Creates a query with these values. Without any, the text goes to the server as it is.
    pub(crate) fn of_values(sql: String, values: impl IntoIterator<Item = Value>) -> Result<Self, sqlx::Error>
    where
        DB: Codec,
    {
        let mut arguments = None;
        for value in values {
            DB::bind(arguments.get_or_insert_with(DB::Arguments::default), value)
                .map_err(sqlx::Error::Encode)?;
        }
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        Ok(Self { sql, arguments, statement: None, persistent: false })
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
        DB: Codec,
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
        DB: Codec,
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

impl<DB: Codec> Clone for WatchedQuery<DB> {
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
