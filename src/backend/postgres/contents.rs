//! Reads whole tables as text.

use sqlx::Postgres;

use crate::backend::contents::ContentsSql;

impl ContentsSql for Postgres {
    /// The type of a column is the category of its type.
    const COLUMNS_QUERY: &'static str = "SELECT concat_ws(chr(31), CASE WHEN pg_table_is_visible(c.oid) \
        THEN '1' ELSE '0' END, n.nspname, c.relname, a.attname, t.typcategory) \
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        JOIN pg_type AS t ON t.oid = a.atttypid \
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
        ORDER BY c.oid, a.attnum";

    fn quoted_name(name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    /// Numbers and booleans are shown without quotes.
    fn column_as_text(column: &str, data_type: &str) -> String {
        let column = Self::quoted_name(column);
        match data_type {
            "N" | "B" => format!("coalesce({column}::text, 'NULL')"),
            _ => format!("quote_nullable({column}::text)"),
        }
    }

    fn line_of(expressions: &[String]) -> String {
        expressions.join(" || chr(31) || ")
    }
}
