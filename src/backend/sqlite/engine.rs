//! Identifies SQLite.

use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;

use crate::backend::engine::Product;

impl Product for Sqlite {
    const SYSTEM: &'static str = "sqlite";

    const SESSION_ID_QUERY: Option<&'static str> = None;

    fn address(options: &SqliteConnectOptions) -> String {
        options.get_filename().display().to_string()
    }

    fn lives_in_its_connection(options: &SqliteConnectOptions) -> bool {
        // The options have no getter, and `to_url_lossy` panics on some of them.
        let name = options.get_filename().as_os_str();
        name.is_empty() || name == ":memory:" || format!("{options:?}").contains("in_memory: true")
    }
}
