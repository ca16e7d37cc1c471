//! The statements with which a certification tests what SQLite does.

use sqlx::Sqlite;

use crate::backend::certification::{CertificationSql, CertificationTexts, CertifiedLevel};

impl CertificationSql for Sqlite {
    const CERTIFICATION: CertificationTexts = CertificationTexts {
        levels: &[
            CertifiedLevel { id: "deferred", opening: "BEGIN" },
            CertifiedLevel { id: "immediate", opening: "BEGIN IMMEDIATE" },
        ],
        parameter: "?",
        // A statement that would wait fails instead, and is sent again.
        session_setup: Some("PRAGMA busy_timeout = 0"),
        version_query: "SELECT 'SQLite ' || sqlite_version()",
        namespace: None,
        limited_drop: ["", ""],
        advisory_lock: None,
        short_lock_timeout: Some("PRAGMA busy_timeout = 300"),
        short_statement_timeout: None,
        short_idle_timeout: None,
        long_statement: None,
        cancel: None,
        session_mark: [
            "PRAGMA busy_timeout = 4321",
            "SELECT timeout = 4321 FROM pragma_busy_timeout",
            "PRAGMA busy_timeout = 0",
        ],
        clock: None,
    };

    /// A syntax error has the code of every other error of a statement.
    fn is_unknown_to_the_server(code: &str) -> bool {
        code == "1"
    }
}
