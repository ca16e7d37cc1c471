//! What the integration tests share: databases to run on, and one way to speak to all of them.

#[allow(dead_code, reason = "SQLite has no network")]
pub(crate) mod proxy;
pub(crate) mod servers;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Backend, Error, Options, Tx};
use sqlx::{AssertSqlSafe, Connection, Executor, MySql, Pool, Postgres, Row, SqlStr, Sqlite};

type BoxStream<'a, T> = std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send + 'a>>;
type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A database under test: how to get an empty one, and statements in integers, enough for every scenario.
///
/// Scenarios write `?` for a parameter, whatever the database.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) trait TestBackend: Backend {
    /// The isolation level of the session. SQLite has no such thing.
    const LEVEL: &'static str;

    /// The isolation level of the transaction that is open.
    const LEVEL_INSIDE: &'static str;

    /// The limits on statements and lock waits, as one text.
    const LIMITS: &'static str;

    /// All the money of a bank, as an integer.
    const TOTAL: &'static str;

    /// What a request to commit is recognised by on the wire.
    const COMMIT: &'static str;

    /// A statement after which this transaction waits for locks a very short time. SQLite has no such thing.
    const SHORT_LOCK_TIMEOUT: &'static str;

    /// A pool of connections to an empty database of its own.
    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>>;

    /// How many transactions are open on this database, not counting this question, and how many locks they hold.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64>;

    fn execute<'a>(
        tx: &'a mut Tx<Self>,
        sql: SqlStr,
        arguments: &'a [i64],
    ) -> BoxFuture<'a, sqlx::Result<u64>>;
    fn fetch<'a>(tx: &'a mut Tx<Self>, sql: SqlStr, arguments: &'a [i64])
    -> BoxFuture<'a, sqlx::Result<i64>>;
    fn pool_execute<'a>(
        pool: &'a Pool<Self>,
        sql: SqlStr,
        arguments: &'a [i64],
    ) -> BoxFuture<'a, sqlx::Result<u64>>;
    fn pool_fetch<'a>(
        pool: &'a Pool<Self>,
        sql: SqlStr,
        arguments: &'a [i64],
    ) -> BoxFuture<'a, sqlx::Result<i64>>;

    /// `tx.lock_rows` on the table `account`.
    fn lock_accounts<'a>(tx: &'a mut Tx<Self>, keys: &'a [i64]) -> BoxFuture<'a, Result<Vec<i64>, Error>>;

    /// The integers of a query, as they come.
    fn stream<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxStream<'a, sqlx::Result<i64>>;
    fn raw<'a>(connection: &'a mut Self::Connection, sql: &'static str) -> BoxFuture<'a, sqlx::Result<()>>;

    /// A connection of its own, outside of every pool, that has written to row 1 of `counter` and holds its lock.
    fn blocker(url: &str) -> BoxFuture<'_, Self::Connection>;

    /// A small pool of its own on the same database.
    fn another(url: &str) -> BoxFuture<'_, Pool<Self>>;

    /// The limits that are in force on the next connection out of the pool, and its isolation level; the limits inside
    /// of a transaction.
    fn limits(pool: &Pool<Self>) -> BoxFuture<'_, (String, String)>;
    fn limits_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String>;

    /// The isolation level inside of a transaction, as SQL spells it.
    fn level_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String>;

    /// The options, with a limit on statements where the database has one.
    fn with_timeouts(options: Options, limit: Duration) -> Options {
        options.statement_timeout(limit)
    }

    /// Has the server end the sessions of all connections to this database. SQLite has no server.
    fn kill_sessions(url: &str) -> BoxFuture<'_, ()>;

    /// The text with the database's own placeholders.
    fn sql(text: &str) -> SqlStr;
}

/// A pool, and what has to live as long as it does.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) struct TestPool<DB: Backend> {
    pub pool: Pool<DB>,
    pub url: String,
    _directory: Option<tempfile::TempDir>,
}

impl<DB: Backend> std::ops::Deref for TestPool<DB> {
    type Target = Pool<DB>;

    fn deref(&self) -> &Pool<DB> {
        &self.pool
    }
}

/// A name that no other test of this process, or of another one on the same server, has.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn numbered(text: &str) -> SqlStr {
    use sqlx::SqlSafeStr as _;
    let mut parts = text.split('?');
    let mut sql = parts.next().unwrap_or_default().to_owned();
    for (i, part) in parts.enumerate() {
        sql.push_str(&format!("${}{part}", i + 1));
    }
    AssertSqlSafe(sql).into_sql_str()
}

fn as_written(text: &str) -> SqlStr {
    use sqlx::SqlSafeStr as _;
    AssertSqlSafe(text.to_owned()).into_sql_str()
}

macro_rules! statements {
    () => {
        fn execute<'a>(
            tx: &'a mut Tx<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(query.execute(&mut *tx).await?.rows_affected())
            })
        }

        fn fetch<'a>(
            tx: &'a mut Tx<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<i64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.fetch_one(&mut *tx).await?.try_get(0)
            })
        }

        fn pool_execute<'a>(
            pool: &'a Pool<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<u64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                Ok(query.execute(pool).await?.rows_affected())
            })
        }

        fn pool_fetch<'a>(
            pool: &'a Pool<Self>,
            sql: SqlStr,
            arguments: &'a [i64],
        ) -> BoxFuture<'a, sqlx::Result<i64>> {
            Box::pin(async move {
                let query = arguments.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.fetch_one(pool).await?.try_get(0)
            })
        }

        fn lock_accounts<'a>(
            tx: &'a mut Tx<Self>,
            keys: &'a [i64],
        ) -> BoxFuture<'a, Result<Vec<i64>, Error>> {
            Box::pin(tx.lock_rows("account", "id", keys))
        }

        fn stream<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxStream<'a, sqlx::Result<i64>> {
            Box::pin(sqlx::query_scalar(sql).fetch(tx))
        }

        fn raw<'a>(
            connection: &'a mut Self::Connection,
            sql: &'static str,
        ) -> BoxFuture<'a, sqlx::Result<()>> {
            Box::pin(async move { connection.execute(sqlx::raw_sql(sql)).await.map(drop) })
        }

        fn another(url: &str) -> BoxFuture<'_, Pool<Self>> {
            Box::pin(async move {
                let pool = sqlx::pool::PoolOptions::new().max_connections(2).connect(url).await;
                pool.expect("a pool")
            })
        }

        fn limits(pool: &Pool<Self>) -> BoxFuture<'_, (String, String)> {
            Box::pin(async move {
                let mut connection = pool.acquire().await.expect("a connection");
                let limits: String =
                    sqlx::query_scalar(Self::LIMITS).fetch_one(&mut *connection).await.expect("the limits");
                let level: String =
                    sqlx::query_scalar(Self::LEVEL).fetch_one(&mut *connection).await.expect("the level");
                (limits, level)
            })
        }

        fn limits_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String> {
            Box::pin(
                async move { sqlx::query_scalar(Self::LIMITS).fetch_one(tx).await.expect("the settings") },
            )
        }

        fn level_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String> {
            Box::pin(async move {
                let level: Option<String> =
                    sqlx::query_scalar(Self::LEVEL_INSIDE).fetch_optional(&mut *tx).await.expect("the level");
                level.unwrap_or_default().to_uppercase().replace('-', " ")
            })
        }

        fn blocker(url: &str) -> BoxFuture<'_, Self::Connection> {
            Box::pin(async move {
                let mut connection = Self::Connection::connect(url).await.expect("a connection");
                let hold = "BEGIN; UPDATE counter SET value = value + 1000 WHERE id = 1";
                connection.execute(sqlx::raw_sql(hold)).await.expect("the lock");
                connection
            })
        }
    };
}

impl TestBackend for Postgres {
    const TOTAL: &'static str = "SELECT CAST(SUM(balance) AS BIGINT) FROM account";
    const LEVEL_INSIDE: &'static str = "SELECT current_setting('transaction_isolation')";
    const LEVEL: &'static str = "SELECT current_setting('transaction_isolation')";
    const COMMIT: &'static str = "COMMIT\0";
    const SHORT_LOCK_TIMEOUT: &'static str = "SET LOCAL lock_timeout = 20";
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
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND (state LIKE 'idle in transaction%' OR xact_start IS NOT NULL)",
            )
            .fetch_one(pool)
            .await
            .expect("ask for open transactions")
        })
    }

    statements!();

    fn kill_sessions(url: &str) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut admin = sqlx::PgConnection::connect(url).await.expect("a connection");
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let killed = sqlx::query(kill).fetch_all(&mut admin).await.expect("kill");
            assert!(!killed.is_empty(), "there was no session");
        })
    }

    fn sql(text: &str) -> SqlStr {
        numbered(text)
    }
}

impl TestBackend for MySql {
    const TOTAL: &'static str = "SELECT CAST(SUM(balance) AS SIGNED) FROM account";
    const LEVEL_INSIDE: &'static str = "SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = connection_id()";
    const LEVEL: &'static str = "SELECT @@tx_isolation";
    const COMMIT: &'static str = "; COMMIT";
    const SHORT_LOCK_TIMEOUT: &'static str = "SET innodb_lock_wait_timeout = 1";
    const LIMITS: &'static str = "SELECT CONCAT_WS(' ', @@innodb_lock_wait_timeout, @@max_statement_time)";

    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>> {
        Box::pin(async move {
            let (server, name) = (servers::mysql_url(), fresh_name());
            let mut admin = sqlx::MySqlConnection::connect(&server).await.expect("connect to MariaDB");
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("create a database");
            let url = with_database(&server, &name);
            let pool = sqlx::mysql::MySqlPoolOptions::new()
                .max_connections(connections)
                .connect(&url)
                .await
                .expect("connect to MariaDB");
            TestPool { pool, url, _directory: None }
        })
    }

    /// `information_schema.innodb_trx` would be easier to read, but is renewed only when nobody has read it for a while.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            let sessions: Vec<i64> = sqlx::query_scalar(
                "SELECT CAST(id AS SIGNED) FROM information_schema.processlist
                 WHERE db = database() AND id <> connection_id()",
            )
            .fetch_all(pool)
            .await
            .expect("the sessions");
            let status: String = sqlx::query("SHOW ENGINE INNODB STATUS")
                .fetch_one(pool)
                .await
                .expect("the status")
                .get("Status");
            let in_transaction = |entry: &&str| {
                let thread = entry.split_once("thread id ").and_then(|(_, rest)| rest.split(',').next());
                let session = thread.and_then(|id| id.trim().parse().ok());
                entry.contains(", ACTIVE") && session.is_some_and(|session| sessions.contains(&session))
            };
            status.split("---TRANSACTION").filter(in_transaction).count() as i64
        })
    }

    statements!();

    fn kill_sessions(url: &str) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut admin = sqlx::MySqlConnection::connect(url).await.expect("a connection");
            let ids: Vec<i64> = sqlx::query_scalar(
                "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
            )
            .fetch_all(&mut admin)
            .await
            .expect("the sessions");
            assert!(!ids.is_empty(), "there was no session");
            for id in ids {
                admin.execute(AssertSqlSafe(format!("KILL {id}"))).await.expect("kill");
            }
        })
    }

    fn sql(text: &str) -> SqlStr {
        as_written(text)
    }
}

impl TestBackend for Sqlite {
    const TOTAL: &'static str = "SELECT SUM(balance) FROM account";
    const LEVEL_INSIDE: &'static str = "SELECT 'SERIALIZABLE'";
    const LEVEL: &'static str = "SELECT ''";
    const COMMIT: &'static str = "";
    const SHORT_LOCK_TIMEOUT: &'static str = "";
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

    /// SQLite tells nobody, but a writer gets in only when no other is.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            let mut connection = pool.acquire().await.expect("a connection");
            let free = connection
                .execute(sqlx::raw_sql(
                    "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK; PRAGMA busy_timeout = 5000",
                ))
                .await;
            i64::from(free.is_err())
        })
    }

    /// SQLite has none.
    fn with_timeouts(options: Options, _limit: Duration) -> Options {
        options
    }

    statements!();

    fn kill_sessions(url: &str) -> BoxFuture<'_, ()> {
        let _ = url;
        Box::pin(async {})
    }

    fn sql(text: &str) -> SqlStr {
        as_written(text)
    }
}

fn with_database(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a URL that names a database");
    format!("{server}/{name}")
}

/// Asks until the answer is as wanted, for as long as a loaded machine may need: for what a server does on its own
/// time after a client has gone.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) async fn eventually<T: PartialEq + std::fmt::Debug>(wanted: T, mut ask: impl AsyncFnMut() -> T) {
    let mut got = ask().await;
    for _ in 0..400 {
        if got == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        got = ask().await;
    }
    panic!("wanted {wanted:?}, and after 10 s it still is {got:?}");
}
