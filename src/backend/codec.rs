//! Binds values and decodes columns on any database.
//!
//! The blanket implementation hides sqlx's bounds: the bounds of a supertrait are implied, while those of a
//! `where` clause would be needed in every signature.

use std::fmt::Debug;

use sqlx::error::BoxDynError;
use sqlx::{
    Arguments as _, Column as _, ColumnIndex, Database, Decode, Encode, Row as _, Type, ValueRef as _,
};

use super::values::{hex, quoted};

/// A value that the crate binds to a statement of its own.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub enum Value {
    Integer(i64),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

/// A type that can be the key of a row: one that sqlx can bind and decode, and that Rust can sort.
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

/// Binds values and decodes columns.
#[doc(hidden)]
pub trait Codec: Database<Arguments: Clone + Debug + Sync, Statement: Sync> {
    /// Appends a value to the arguments of a statement.
    fn bind(arguments: &mut Self::Arguments, value: Value) -> Result<(), BoxDynError>;

    /// Returns whether a column holds text.
    fn is_text(row: &Self::Row, column: usize) -> bool;

    /// Decodes an integer of any width; `None` is NULL.
    fn integer(row: &Self::Row, column: usize) -> Result<Option<i64>, sqlx::Error>;

    /// Decodes text; `None` is NULL.
    fn text(row: &Self::Row, column: usize) -> Result<Option<String>, sqlx::Error>;

    /// Decodes bytes; `None` is NULL.
    fn bytes(row: &Self::Row, column: usize) -> Result<Option<Vec<u8>>, sqlx::Error>;

    /// Decodes the key of a row.
    fn key<K: Key<Self>>(row: &Self::Row, column: usize) -> Result<K, sqlx::Error>;

    /// Formats a row for a reader: its columns, and their values if they are of the usual types.
    fn show_row(row: &Self::Row) -> String;
}

impl<DB> Codec for DB
where
    DB: Database<Arguments: Clone + Debug + Sync, Statement: Sync>,
    usize: ColumnIndex<DB::Row>,
    bool: Type<DB> + for<'r> Decode<'r, DB>,
    f64: Type<DB> + for<'r> Decode<'r, DB>,
    i16: Type<DB> + for<'r> Decode<'r, DB>,
    i32: Type<DB> + for<'r> Decode<'r, DB>,
    i64: Type<DB> + for<'r> Decode<'r, DB> + for<'q> Encode<'q, DB>,
    String: Type<DB> + for<'r> Decode<'r, DB>,
    Option<String>: for<'q> Encode<'q, DB>,
    Vec<u8>: Type<DB> + for<'r> Decode<'r, DB> + for<'q> Encode<'q, DB>,
{
    fn bind(arguments: &mut DB::Arguments, value: Value) -> Result<(), BoxDynError> {
        match value {
            Value::Integer(integer) => arguments.add(integer),
            Value::Text(text) => arguments.add(text),
            Value::Bytes(bytes) => arguments.add(bytes),
        }
    }

    fn is_text(row: &DB::Row, column: usize) -> bool {
        row.try_get_raw(column).is_ok_and(|value| String::compatible(&value.type_info()))
    }

    fn integer(row: &DB::Row, column: usize) -> Result<Option<i64>, sqlx::Error> {
        row.try_get(column).or_else(|error| {
            // PostgreSQL decodes each width into the type of that width only.
            let narrow = row.try_get(column).map(|value: Option<i32>| value.map(i64::from));
            let narrowest = |_| row.try_get(column).map(|value: Option<i16>| value.map(i64::from));
            narrow.or_else(narrowest).map_err(|_| error)
        })
    }

    fn text(row: &DB::Row, column: usize) -> Result<Option<String>, sqlx::Error> {
        row.try_get(column)
    }

    fn bytes(row: &DB::Row, column: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        row.try_get(column)
    }

    fn key<K: Key<DB>>(row: &DB::Row, column: usize) -> Result<K, sqlx::Error> {
        row.try_get(column)
    }

    fn show_row(row: &DB::Row) -> String {
        let values = row.columns().iter().map(|column| {
            let value = value_text::<DB>(row, column.ordinal());
            format!("{} = {}", column.name(), value.as_deref().unwrap_or("…"))
        });
        values.collect::<Vec<_>>().join(", ")
    }
}

/// Formats a value by the first of the usual types that decodes it; `None` if none does.
fn value_text<DB>(row: &DB::Row, column: usize) -> Option<String>
where
    DB: Codec,
    usize: ColumnIndex<DB::Row>,
    bool: Type<DB> + for<'r> Decode<'r, DB>,
    f64: Type<DB> + for<'r> Decode<'r, DB>,
{
    fn or_null<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
        value.map_or_else(|| String::from("NULL"), show)
    }

    let decimal = |value: f64| value.to_string();
    let boolean = |value: bool| value.to_string();
    DB::integer(row, column)
        .map(|value| or_null(value, |integer| integer.to_string()))
        .or_else(|_| row.try_get(column).map(|value| or_null(value, decimal)))
        .or_else(|_| row.try_get(column).map(|value| or_null(value, boolean)))
        .or_else(|_| DB::text(row, column).map(|value| or_null(value, |text| quoted(&text))))
        .or_else(|_| DB::bytes(row, column).map(|value| or_null(value, |bytes| hex(&bytes))))
        .ok()
}

/// Returns the value of a column that is never NULL, or an error if it is.
pub(crate) fn required<T>(value: Option<T>, column: usize) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::ColumnDecode {
        index: column.to_string(),
        source: Box::new(sqlx::error::UnexpectedNullError),
    })
}
