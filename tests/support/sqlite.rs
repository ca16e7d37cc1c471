//! SQLite under test.

use std::time::Duration;

use atomically::{Atomic, Error, Options, PoolTransactor, Tx};
use sqlx::{Connection, Executor, Pool, Row, SqlStr, Sqlite};

use super::statements::statements;
use super::{BoxFuture, BoxStream, TestBackend, TestPool, as_written};

/// A session can only lower its isolation, by a pragma.
const LEVEL: &str = "SELECT CASE read_uncommitted WHEN 0 THEN 'SERIALIZABLE' ELSE 'READ UNCOMMITTED' END
    FROM pragma_read_uncommitted";

impl TestBackend for Sqlite {
    const TWO_AND_THREE_SECONDS: &'static str = "2000";
    const TOTAL: &'static str = "SELECT SUM(balance) FROM account";
    const LEVEL_INSIDE: &'static str = LEVEL;
    const LEVEL: &'static str = LEVEL;
    const COMMIT: &'static str = "";
    const LIMITS: &'static str = "SELECT CAST(timeout AS TEXT) FROM pragma_busy_timeout";

    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>> {
        Box::pin(async move {
            let directory = tempfile::tempdir().expect("make a temporary directory");
            let file = directory.path().join("test.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(&file)
                .create_if_missing(true)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Normal);
            let pool = sqlx::sqlite::SqlitePoolOptions::new()
                .max_connections(connections)
                .connect_with(options)
                .await
                .expect("open SQLite");
            TestPool { pool, url: format!("sqlite://{}", file.display()), _directory: Some(directory) }
        })
    }

    /// SQLite does not report open transactions, but a writer can begin only when no other writer is active.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            let mut connection = pool.acquire().await.expect("a connection");
            let attempt = "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK";
            let free = connection.execute(sqlx::raw_sql(attempt)).await;
            // Also after a failure, because the next user of the connection has to wait for writers.
            let restored = connection.execute(sqlx::raw_sql("PRAGMA busy_timeout = 5000")).await;
            restored.expect("the usual timeout");
            i64::from(free.is_err())
        })
    }

    /// SQLite has no statement timeout.
    fn with_timeouts(options: Options, _limit: Duration) -> Options {
        options
    }

    statements!();

    fn sql(text: &str) -> SqlStr {
        as_written(text)
    }
}
