//! The statements with which a certification tests what a server does.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Pool, Postgres};
use tokio::time::timeout;

use crate::backend::certification::{
    CertificationSql, CertificationTexts, CertifiedLevel, CertifiedNamespace,
};

/// How long a notification may take.
const NOTIFICATION_PATIENCE: Duration = Duration::from_secs(10);

/// The limit keeps a script from hanging, and the id is that of the server connection behind a pooler.
macro_rules! level {
    ($id:literal, $level:literal) => {
        CertifiedLevel {
            id: $id,
            opening: concat!(
                "BEGIN ISOLATION LEVEL ",
                $level,
                "; SET LOCAL lock_timeout = '10s'; SELECT pg_backend_pid()::bigint"
            ),
        }
    };
}

impl CertificationSql for Postgres {
    const CERTIFICATION: CertificationTexts = CertificationTexts {
        levels: &[
            level!("read-committed", "READ COMMITTED"),
            level!("repeatable-read", "REPEATABLE READ"),
            level!("serializable", "SERIALIZABLE"),
        ],
        parameter: "$1",
        session_setup: None,
        version_query: "SELECT version()",
        namespace: Some(CertifiedNamespace {
            create: "CREATE SCHEMA {}",
            drop: "DROP SCHEMA IF EXISTS {} CASCADE",
        }),
        limited_drop: ["BEGIN; SET LOCAL lock_timeout = '2s'; ", "; COMMIT"],
        advisory_lock: Some(["SELECT pg_try_advisory_xact_lock({})::int::bigint", "SELECT 1::bigint"]),
        short_lock_timeout: Some("SET LOCAL lock_timeout = '300ms'"),
        short_statement_timeout: Some("SET LOCAL statement_timeout = '300ms'"),
        short_idle_timeout: Some((
            "SET LOCAL idle_in_transaction_session_timeout = '300ms'",
            Duration::from_secs(1),
        )),
        long_statement: Some("SELECT pg_sleep(15)"),
        cancel: Some("SELECT pg_cancel_backend({})::int::bigint"),
        session_mark: [
            "SELECT set_config('atomically.certify', 'set', false)",
            "SELECT (coalesce(current_setting('atomically.certify', true), '') = 'set')::int::bigint",
            "SELECT set_config('atomically.certify', '', false)",
        ],
        clock: Some("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"),
    };

    /// Syntax errors, unknown functions, types and parameters, and features that are not supported.
    fn is_unknown_to_the_server(code: &str) -> bool {
        ["0A000", "42601", "42704", "42883"].contains(&code)
    }

    fn notification_arrives(
        pool: &Pool<Self>,
        channel: String,
    ) -> Option<BoxFuture<'_, Result<bool, sqlx::Error>>> {
        Some(Box::pin(async move {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen(&channel).await?;
            let mut other = PgConnection::connect_with(&pool.connect_options()).await?;
            // Behind a pooler, the notification may reach the session that sends it, and break it.
            let sent = other.execute(AssertSqlSafe(format!("NOTIFY {channel}"))).await;
            let arrives = timeout(NOTIFICATION_PATIENCE, listener.recv()).await;
            let _ = timeout(NOTIFICATION_PATIENCE, listener.unlisten_all()).await;
            Ok(sent.is_ok() && matches!(arrives, Ok(Ok(_))))
        }))
    }
}
