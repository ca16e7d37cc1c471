//! The statements with which a certification tests what a server does.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Pool, Postgres};
use tokio::time::timeout;

use crate::backend::certification::{CertificationSql, CertifiedLevel, CertifiedNamespace};

/// How long a notification may take.
const NOTIFICATION_PATIENCE: Duration = Duration::from_secs(2);

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
    const CERTIFIED_LEVELS: &'static [CertifiedLevel] = &[
        level!("read-committed", "READ COMMITTED"),
        level!("repeatable-read", "REPEATABLE READ"),
        level!("serializable", "SERIALIZABLE"),
    ];

    const PARAMETER: &'static str = "$1";

    const VERSION_QUERY: &'static str = "SELECT version()";

    const NAMESPACE: Option<CertifiedNamespace> =
        Some(CertifiedNamespace { create: "CREATE SCHEMA {}", drop: "DROP SCHEMA IF EXISTS {} CASCADE" });

    const LIMITED_DROP: [&'static str; 2] = ["BEGIN; SET LOCAL lock_timeout = '2s'; ", "; COMMIT"];

    const ADVISORY_LOCK: Option<[&'static str; 2]> =
        Some(["SELECT pg_try_advisory_xact_lock({})::int::bigint", "SELECT 1::bigint"]);

    const CERTIFIED_LOCK_TIMEOUT: Option<&'static str> = Some("SET LOCAL lock_timeout = '300ms'");

    const SHORT_STATEMENT_TIMEOUT: Option<&'static str> = Some("SET LOCAL statement_timeout = '300ms'");

    const SHORT_IDLE_TIMEOUT: Option<(&'static str, Duration)> =
        Some(("SET LOCAL idle_in_transaction_session_timeout = '300ms'", Duration::from_secs(1)));

    const LONG_STATEMENT: Option<&'static str> = Some("SELECT pg_sleep(15)");

    const CANCEL: Option<&'static str> = Some("SELECT pg_cancel_backend({})::int::bigint");

    const SESSION_MARK: [&'static str; 3] = [
        "SELECT set_config('atomically.certify', 'set', false)",
        "SELECT (coalesce(current_setting('atomically.certify', true), '') = 'set')::int::bigint",
        "SELECT set_config('atomically.certify', '', false)",
    ];

    const CLOCK: Option<&'static str> = Some("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");

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
