//! The statements with which a certification tests what SQLite does.

use sqlx::Sqlite;

use crate::backend::certification::{CertificationSql, CertifiedLevel};

impl CertificationSql for Sqlite {
    const CERTIFIED_LEVELS: &'static [CertifiedLevel] = &[
        CertifiedLevel { id: "deferred", opening: "BEGIN" },
        CertifiedLevel { id: "immediate", opening: "BEGIN IMMEDIATE" },
    ];

    /// A statement that would wait fails instead, and is sent again.
    const SESSION_SETUP: Option<&'static str> = Some("PRAGMA busy_timeout = 0");

    const VERSION_QUERY: &'static str = "SELECT 'SQLite ' || sqlite_version()";

    const CERTIFIED_LOCK_TIMEOUT: Option<&'static str> = Some("PRAGMA busy_timeout = 300");

    const SESSION_MARK: [&'static str; 3] = [
        "PRAGMA busy_timeout = 4321",
        "SELECT timeout = 4321 FROM pragma_busy_timeout",
        "PRAGMA busy_timeout = 0",
    ];

    /// A syntax error has the code of every other error of a statement.
    fn is_unknown_to_the_server(code: &str) -> bool {
        code == "1"
    }
}
