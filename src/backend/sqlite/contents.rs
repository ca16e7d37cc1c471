//! Reads whole tables as text.

use sqlx::Sqlite;

use crate::backend::contents::ContentsSql;

impl ContentsSql for Sqlite {
    const COLUMNS_QUERY: &'static str = "SELECT '1' || char(31) || 'main' || char(31) || m.name || char(31) \
        || c.name || char(31) || c.type \
        FROM sqlite_master AS m, pragma_table_info(m.name) AS c \
        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
        ORDER BY m.name, c.cid";

    fn quoted_name(name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    /// Any column may hold a value of any type.
    fn column_as_text(column: &str, _data_type: &str) -> String {
        format!("quote({})", Self::quoted_name(column))
    }

    fn line_of(expressions: &[String]) -> String {
        expressions.join(" || char(31) || ")
    }
}
