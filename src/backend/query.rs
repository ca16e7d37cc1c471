//! Statements, and the replies to them.

use sqlx::{Database, SqlSafeStr as _};

use super::carried_failure::SyntheticError;
use super::codec::{Codec, Value};
use super::folded::{FoldedSql, Literal, Unwritable};
use super::statements::StatementRules;
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{column_compared_with_null, has_nowait, is_update_or_delete};

/// The reply to a text of one or more statements.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Reply {
    /// How many statements succeeded.
    pub completed: usize,
    /// The first column of each row in which it is an integer.
    pub integers: Vec<i64>,
    /// The first column of each row in which it is text.
    pub texts: Vec<String>,
    /// The error that ended the text early.
    pub error: Option<sqlx::Error>,
}

impl Reply {
    /// Adds the first column of a row.
    pub(super) fn add_row<DB: Codec>(&mut self, row: &DB::Row) {
        if DB::is_text(row, 0) {
            self.texts.extend(DB::text(row, 0).ok().flatten());
        } else {
            self.integers.extend(DB::integer(row, 0).ok().flatten());
        }
    }
}

/// A query taken apart, so that its text can be inspected and the query can run again.
#[doc(hidden)]
pub struct WatchedQuery<DB: Database> {
    sql: sqlx::SqlStr,
    arguments: Option<DB::Arguments>,
    statement: Option<DB::Statement>,
    persistent: bool,
}

impl<DB: Database> WatchedQuery<DB> {
    /// Takes a query apart. Fails if its arguments cannot be encoded.
    pub(crate) fn new<'q>(mut query: impl sqlx::Execute<'q, DB>) -> Result<Self, sqlx::Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let persistent = query.persistent();
        let statement = query.statement().cloned();
        Ok(Self { sql: query.sql(), arguments, statement, persistent })
    }

    /// Creates a query with these arguments. It is not cached as a prepared statement unless
    /// [`persistent_if`](Self::persistent_if) is called.
    pub(crate) fn with_arguments(sql: sqlx::SqlStr, arguments: DB::Arguments) -> Self {
        Self { sql, arguments: Some(arguments), statement: None, persistent: false }
    }

    /// Creates a query with these values. Without values, the text is sent as it is.
    pub(crate) fn with_values(
        sql: String,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Self, sqlx::Error>
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

    /// Returns the query, which is prepared once per connection if `persistent` is true.
    pub(crate) fn persistent_if(self, persistent: bool) -> Self {
        Self { persistent, ..self }
    }

    pub(crate) fn sql(&self) -> &str {
        self.sql.as_str()
    }

    /// Returns whether the caller allows a session to keep the statement prepared.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Writes the bound values as SQL.
    pub(crate) fn literals(&self) -> Result<Vec<Literal>, Unwritable>
    where
        DB: FoldedSql,
    {
        self.arguments.as_ref().map_or_else(|| Ok(Vec::new()), DB::literals)
    }

    /// Returns a cheap copy of the text.
    pub(crate) fn text(&self) -> sqlx::SqlStr {
        self.sql.clone()
    }

    /// Returns whether the text has NOWAIT.
    pub(crate) fn has_nowait(&self) -> bool
    where
        DB: StatementRules,
    {
        has_nowait(DB::SYNTAX, self.sql())
    }

    /// Returns the bound values as text, if they can be read.
    pub(crate) fn argument_texts(&self) -> Option<Vec<String>>
    where
        DB: Codec + StatementRules,
    {
        let arguments = self.arguments.as_ref()?;
        DB::argument_texts(&format!("{arguments:?}"))
    }

    /// Returns whether the query has bound values.
    pub(crate) fn has_arguments(&self) -> bool {
        self.arguments.as_ref().is_some_and(|arguments| sqlx::Arguments::len(arguments) > 0)
    }

    /// Estimates the size of the query on the wire, in bytes. If it exceeds `limit`, returns some number
    /// above `limit`.
    fn size_up_to(&self, limit: usize) -> usize
    where
        DB: Codec,
    {
        let text = self.sql().len();
        match &self.arguments {
            Some(arguments) if text <= limit => text + argument_bytes_up_to(arguments, limit - text),
            _ => text,
        }
    }

    /// Returns whether the query is an UPDATE or DELETE that may compare a column with a bound NULL.
    pub(crate) fn may_compare_with_null(&self) -> bool {
        self.has_arguments() && is_update_or_delete(self.sql())
    }

    /// Returns the column that the statement compares with a bound NULL, so that no row matches.
    pub(crate) fn column_compared_with_null(&self) -> Option<String>
    where
        DB: Codec + StatementRules,
    {
        let values = self.argument_texts()?;
        column_compared_with_null(DB::SYNTAX, self.sql(), |number| {
            number.checked_sub(1).and_then(|place| values.get(place)).is_some_and(|value| value == "NULL")
        })
    }

    /// Returns an error that explains that the statement exceeds `max_packet`, or the driver's error if it
    /// does not.
    ///
    /// The server closes the connection on such a statement, often before the driver has sent all of it and
    /// can read the server's error.
    pub(crate) fn explain_if_oversized(&self, error: sqlx::Error, max_packet: usize) -> sqlx::Error
    where
        DB: Codec,
    {
        let is_disconnected = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
        if !is_disconnected || max_packet == 0 || self.size_up_to(max_packet) <= max_packet {
            return error;
        }
        let message = format!(
            "the statement is larger than the server's max_allowed_packet of {max_packet} bytes, and was \
             not run: send less at a time, or raise max_allowed_packet"
        );
        let failure = Failure::new(FailureKind::Other, message).with_code("1153").spoiling_session(true);
        SyntheticError::Failed(failure).into()
    }

    /// Returns whether the text is sent unprepared, and may therefore contain several statements.
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

/// Counts the bytes of a driver's arguments in their `Debug` output, which lists them as decimal numbers.
/// Stops above `limit`.
fn argument_bytes_up_to(arguments: &impl std::fmt::Debug, limit: usize) -> usize {
    struct NumberCounter {
        count: usize,
        limit: usize,
    }

    impl std::fmt::Write for NumberCounter {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let begins_with_digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
            self.count += usize::from(begins_with_digit);
            if self.count > self.limit { Err(std::fmt::Error) } else { Ok(()) }
        }
    }

    let mut numbers = NumberCounter { count: 0, limit };
    let _ = std::fmt::write(&mut numbers, format_args!("{arguments:?}"));
    numbers.count
}
