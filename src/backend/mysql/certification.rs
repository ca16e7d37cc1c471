//! The statements with which a certification tests what a server does.

use std::time::Duration;

use sqlx::MySql;

use crate::backend::certification::{
    CertificationSql, CertificationTexts, CertifiedLevel, CertifiedNamespace,
};

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
    const CERTIFICATION: CertificationTexts = CertificationTexts {
        levels: &[
            level!("read-committed", "READ COMMITTED"),
            level!("repeatable-read", "REPEATABLE READ"),
            level!("serializable", "SERIALIZABLE"),
        ],
        parameter: "?",
        session_setup: Some("SET SESSION innodb_lock_wait_timeout = 10"),
        version_query: "SELECT CONCAT_WS(' ', VERSION(), @@version_comment)",
        namespace: Some(CertifiedNamespace {
            create: "CREATE DATABASE {}",
            drop: "DROP DATABASE IF EXISTS {}",
        }),
        limited_drop: ["SET SESSION lock_wait_timeout = 2; ", ""],
        advisory_lock: Some([
            "SELECT CAST(GET_LOCK('atomically_certify_{}', 0) AS SIGNED)",
            "SELECT CAST(RELEASE_LOCK('atomically_certify_{}') AS SIGNED)",
        ]),
        short_lock_timeout: Some("SET SESSION innodb_lock_wait_timeout = 1"),
        short_statement_timeout: Some(
            "SET SESSION /*M! max_statement_time = 0.3*/ /*!50708 max_execution_time = 300*/",
        ),
        short_idle_timeout: Some(("SET SESSION idle_transaction_timeout = 1", Duration::from_millis(2_500))),
        // An interrupted `SLEEP` returns a value unless it is a part of a query.
        long_statement: Some("SELECT SLEEP(8) FROM (SELECT 1 AS n UNION ALL SELECT 2) AS two"),
        cancel: Some("KILL QUERY {}"),
        session_mark: [
            "SET @atomically_certify = 1",
            "SELECT CAST(@atomically_certify IS NOT NULL AS SIGNED)",
            "SET @atomically_certify = NULL",
        ],
        clock: Some("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"),
    };

    /// Syntax errors, unknown variables and functions, features that are not supported, and SERIALIZABLE on
    /// Group Replication and TiDB.
    fn is_unknown_to_the_server(code: &str) -> bool {
        ["1064", "1193", "1235", "1305", "3098", "8048"].contains(&code)
    }
}
