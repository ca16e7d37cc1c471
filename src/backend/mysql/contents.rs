//! Reads whole tables as text.

use sqlx::MySql;

use crate::backend::contents::ContentsSql;

const NUMBERS: [&str; 9] =
    ["tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double", "year"];

const TEXTS: [&str; 14] = [
    "char",
    "varchar",
    "tinytext",
    "text",
    "mediumtext",
    "longtext",
    "enum",
    "set",
    "json",
    "date",
    "time",
    "datetime",
    "timestamp",
    "uuid",
];

impl ContentsSql for MySql {
    const COLUMNS_QUERY: &'static str = "SELECT CONCAT_WS(CHAR(31 USING utf8mb4), \
        IF(t.table_schema = DATABASE(), '1', '0'), t.table_schema, t.table_name, c.column_name, c.data_type) \
        FROM information_schema.tables AS t JOIN information_schema.columns AS c \
        ON c.table_schema = t.table_schema AND c.table_name = t.table_name \
        WHERE t.table_type = 'BASE TABLE' AND t.table_schema NOT IN ('information_schema', 'mysql', \
        'performance_schema', 'sys') \
        ORDER BY t.table_schema, t.table_name, c.ordinal_position";

    fn quoted_name(name: &str) -> String {
        format!("`{}`", name.replace('`', "``"))
    }

    /// Numbers are shown without quotes. Bytes are not valid text, so they are shown in hexadecimal.
    fn column_as_text(column: &str, data_type: &str) -> String {
        let (column, data_type) = (Self::quoted_name(column), data_type.to_ascii_lowercase());
        if NUMBERS.contains(&data_type.as_str()) {
            format!("COALESCE(CAST({column} AS CHAR), 'NULL')")
        } else if TEXTS.contains(&data_type.as_str()) {
            format!("QUOTE({column})")
        } else {
            format!("COALESCE(CONCAT('x''', LOWER(HEX({column})), ''''), 'NULL')")
        }
    }

    fn line_of(expressions: &[String]) -> String {
        let separated = expressions.join(", ");
        format!("CONVERT(CONCAT_WS(CHAR(31 USING utf8mb4), {separated}) USING utf8mb4)")
    }
}
