//! Reads whole tables as text, whatever the types of their columns.

use sqlx::Database;

/// Separates the fields of a line.
#[cfg(feature = "testing")]
pub(crate) const FIELD_SEPARATOR: char = '\u{1f}';

/// The SQL that reads the rows of a table as text.
#[doc(hidden)]
pub trait ContentsSql: Database {
    /// Queries the columns of all tables in the order of the columns, a line for each: whether the table is
    /// on the search path (`1` or `0`), its schema, its name, the column, and the type of the column.
    const COLUMNS_QUERY: &'static str;

    /// Quotes the name of a schema, a table or a column.
    fn quoted_name(name: &str) -> String;

    /// Returns an expression for the value of a column as text that is never NULL. Different values have
    /// different texts.
    fn column_as_text(column: &str, data_type: &str) -> String;

    /// Returns an expression that joins these expressions to one line of fields.
    fn line_of(expressions: &[String]) -> String;
}
