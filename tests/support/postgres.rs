//! PostgreSQL under test.

use atomically::{Atomic, Error, PoolTransactor, Tx};
use sqlx::{AssertSqlSafe, Connection, Executor, Pool, Postgres, Row, SqlStr};

use super::statements::statements;
use super::{
    BoxFuture, BoxStream, ServerBackend, TestBackend, TestPool, fresh_name, numbered, servers, with_database,
};

impl TestBackend for Postgres {
    const TWO_AND_THREE_SECONDS: &'static str = "lock_timeout=2000 statement_timeout=3000";
    const TOTAL: &'static str = "SELECT CAST(SUM(balance) AS BIGINT) FROM account";
    const LEVEL_INSIDE: &'static str = "SELECT current_setting('transaction_isolation')";
    const LEVEL: &'static str = "SELECT current_setting('transaction_isolation')";
    const COMMIT: &'static str = "COMMIT\0";
    const LIMITS: &'static str =
        "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
         WHERE name IN ('lock_timeout', 'statement_timeout')";

    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>> {
        Box::pin(async move {
            let (server, name) = (servers::postgres_url(), fresh_name());
            let mut admin = sqlx::PgConnection::connect(&server).await.expect("connect to PostgreSQL");
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("create a database");
            let url = with_database(&server, &name);
            let pool = sqlx::postgres::PgPoolOptions::new()
                .max_connections(connections)
                .connect(&url)
                .await
                .expect("connect to PostgreSQL");
            TestPool { pool, url, _directory: None }
        })
    }

    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND backend_type = 'client backend'
                 AND (state LIKE 'idle in transaction%' OR xact_start IS NOT NULL)",
            )
            .fetch_one(pool)
            .await
            .expect("ask for open transactions")
        })
    }

    statements!();

    fn sql(text: &str) -> SqlStr {
        numbered(text)
    }
}

impl ServerBackend for Postgres {
    const SHORT_LOCK_TIMEOUT: &'static str = "SET LOCAL lock_timeout = 20";

    const SESSION: &'static str = "SELECT CAST(pg_backend_pid() AS BIGINT)";
    const NEXT_SESSION: &'static str = "SELECT COALESCE(MIN(CAST(pid AS BIGINT)), 0) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend'
         AND pid <> pg_backend_pid() AND pid > ?";
    const KILL: &'static str = "SELECT pg_terminate_backend(CAST(? AS INTEGER))";
}
