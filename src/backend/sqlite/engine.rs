//! Identifies SQLite.

use std::time::Duration;

use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;

use crate::backend::engine::{Engine, EngineProduct, EngineQuery, EngineVersion, Product};
use crate::sql_text::Syntax;

impl Product for Sqlite {
    const SYSTEM: &'static str = "sqlite";

    /// No statement depends on the version.
    const EMBEDDED: Option<Engine> = Some(engine(EngineVersion::new(0, 0, 0)));

    const ENGINE_QUERY: EngineQuery = EngineQuery {
        sql: "SELECT sqlite_version()",
        fallback: "SELECT sqlite_version()",
        read: |answers, _address| engine(EngineVersion::read(answers.first().map_or("", String::as_str))),
    };

    const ENGINE_LIFETIME: Duration = Duration::from_secs(300);

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

const fn engine(version: EngineVersion) -> Engine {
    Engine::new(Syntax::Sqlite, EngineProduct::Sqlite, version)
}
