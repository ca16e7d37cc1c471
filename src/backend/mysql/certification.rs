//! The statements with which a certification tests what a server does.

use std::time::Duration;

use sqlx::MySql;

use crate::backend::certification::{CertificationSql, CertifiedLevel, CertifiedNamespace};

macro_rules! level {
    ($id:literal, $level:literal) => {
        CertifiedLevel {
            id: $id,
            opening: concat!(
                "SET TRANSACTION ISOLATION LEVEL ",
                $level,
                "; START TRANSACTION; SELECT CAST(CONNECTION_ID() AS SIGNED)"
            ),
        }
    };
}

impl CertificationSql for MySql {
    const CERTIFIED_LEVELS: &'static [CertifiedLevel] = &[
        level!("read-committed", "READ COMMITTED"),
        level!("repeatable-read", "REPEATABLE READ"),
        level!("serializable", "SERIALIZABLE"),
    ];

    const SESSION_SETUP: Option<&'static str> = Some("SET SESSION innodb_lock_wait_timeout = 10");

    const VERSION_QUERY: &'static str = "SELECT CONCAT_WS(' ', VERSION(), @@version_comment)";

    const NAMESPACE: Option<CertifiedNamespace> =
        Some(CertifiedNamespace { create: "CREATE DATABASE {}", drop: "DROP DATABASE IF EXISTS {}" });

    const LIMITED_DROP: [&'static str; 2] = ["SET SESSION lock_wait_timeout = 2; ", ""];

    const ADVISORY_LOCK: Option<[&'static str; 2]> = Some([
        "SELECT CAST(GET_LOCK('atomically_certify_{}', 0) AS SIGNED)",
        "SELECT CAST(RELEASE_LOCK('atomically_certify_{}') AS SIGNED)",
    ]);

    const CERTIFIED_LOCK_TIMEOUT: Option<&'static str> = Some("SET SESSION innodb_lock_wait_timeout = 1");

    const SHORT_STATEMENT_TIMEOUT: Option<&'static str> =
        Some("SET SESSION /*M! max_statement_time = 0.3*/ /*!50708 max_execution_time = 300*/");

    const SHORT_IDLE_TIMEOUT: Option<(&'static str, Duration)> =
        Some(("SET SESSION idle_transaction_timeout = 1", Duration::from_millis(2_500)));

    /// An interrupted `SLEEP` returns a value unless it is a part of a query.
    const LONG_STATEMENT: Option<&'static str> =
        Some("SELECT SLEEP(15) FROM information_schema.schemata LIMIT 1");

    const CANCEL: Option<&'static str> = Some("KILL QUERY {}");

    const SESSION_MARK: [&'static str; 3] = [
        "SET @atomically_certify = 1",
        "SELECT CAST(@atomically_certify IS NOT NULL AS SIGNED)",
        "SET @atomically_certify = NULL",
    ];

    const CLOCK: Option<&'static str> = Some("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)");

    /// Syntax errors, unknown variables and functions, features that are not supported, and SERIALIZABLE on
    /// Group Replication and TiDB.
    fn is_unknown_to_the_server(code: &str) -> bool {
        ["1064", "1193", "1235", "1305", "3098", "8048"].contains(&code)
    }
}
