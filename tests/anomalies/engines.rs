//! The differences between the databases: their isolation levels, and how to detect that a session waits.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, MySql, Pool, Postgres, Row as _, Sqlite};
use tokio::sync::Mutex;

use crate::support::TestBackend;

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Rows of integers: enough for every script.
pub(crate) type Rows = Vec<Vec<i64>>;

#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub rows: Rows,
    pub affected: u64,
}

/// A way to run transactions: a column of the table in the guide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub name: &'static str,
    settings: &'static str,
    pub begin: &'static str,
    /// The suffix of `CREATE TABLE`.
    pub storage: &'static str,
}

impl Level {
    const fn new(name: &'static str, settings: &'static str, begin: &'static str) -> Self {
        Self { name, settings, begin, storage: "" }
    }
}

pub(crate) trait Engine: TestBackend {
    const TITLE: &'static str;
    const LEVELS: &'static [Level];

    /// Whether only one transaction that has declared its intent to write can be open at a time.
    const ONE_WRITER: bool = false;

    /// A statement that returns the server's number for this connection.
    const NUMBER: &'static str;

    fn ask(connection: &mut Self::Connection, sql: String) -> BoxFuture<'_, sqlx::Result<Reply>>;

    /// Whether the connection with this number waits for a lock.
    fn is_waiting(pool: &Pool<Self>, number: i64) -> BoxFuture<'_, bool>;

    /// The statements that set a session to this level; `None` if the server is too old for it.
    fn settings<'a>(pool: &'a Pool<Self>, level: &'a Level) -> BoxFuture<'a, Option<String>> {
        let _ = pool;
        Box::pin(async { Some(level.settings.to_owned()) })
    }
}

macro_rules! ask {
    () => {
        fn ask(connection: &mut Self::Connection, sql: String) -> BoxFuture<'_, sqlx::Result<Reply>> {
            Box::pin(async move {
                let mut reply = Reply::default();
                let mut parts = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
                while let Some(part) = parts.try_next().await? {
                    match part {
                        Either::Left(done) => reply.affected += done.rows_affected(),
                        Either::Right(row) => {
                            reply
                                .rows
                                .push((0..row.len()).map(|i| row.try_get(i)).collect::<Result<_, _>>()?);
                        }
                    }
                }
                Ok(reply)
            })
        }
    };
}

impl Engine for Postgres {
    const TITLE: &'static str = "PostgreSQL";
    const LEVELS: &'static [Level] = &[
        Level::new("read uncommitted", "", "BEGIN ISOLATION LEVEL READ UNCOMMITTED"),
        Level::new("read committed", "", "BEGIN ISOLATION LEVEL READ COMMITTED"),
        Level::new("repeatable read", "", "BEGIN ISOLATION LEVEL REPEATABLE READ"),
        Level::new("serializable", "", "BEGIN ISOLATION LEVEL SERIALIZABLE"),
    ];
    const NUMBER: &'static str = "SELECT pg_backend_pid()::int8";

    ask!();

    /// Queries `pg_locks` and not `pg_stat_activity`: a released lock is marked as granted in `pg_locks` at
    /// once, while `pg_stat_activity` shows the session as waiting until it has woken up.
    fn is_waiting(pool: &Pool<Self>, number: i64) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1::int8 AND NOT granted)")
                .bind(number)
                .fetch_one(pool)
                .await
                .expect("the locks")
        })
    }
}

impl Engine for MySql {
    const TITLE: &'static str = "MariaDB";
    const LEVELS: &'static [Level] = &[
        Level { storage: "ENGINE = MyISAM", ..Level::new("no transactions: MyISAM", "", "BEGIN") },
        Level::new("read uncommitted", "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", "BEGIN"),
        Level::new("read committed", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", "BEGIN"),
        Level::new("repeatable read", "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "BEGIN"),
        Level::new(
            "repeatable read, `innodb_snapshot_isolation`",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET innodb_snapshot_isolation = ON",
            "BEGIN",
        ),
        Level::new("serializable", "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "BEGIN"),
    ];
    const NUMBER: &'static str = "SELECT CAST(CONNECTION_ID() AS SIGNED)";

    ask!();

    /// The server refreshes this table only if it has not been read for a tenth of a second, so the readers
    /// take turns and wait for that long.
    fn is_waiting(pool: &Pool<Self>, number: i64) -> BoxFuture<'_, bool> {
        static LINE: Mutex<()> = Mutex::const_new(());
        Box::pin(async move {
            let _place = LINE.lock().await;
            tokio::time::sleep(Duration::from_millis(110)).await;
            let state = "SELECT COUNT(*) FROM information_schema.innodb_trx
                         WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'";
            let waiting: i64 =
                sqlx::query_scalar(state).bind(number).fetch_one(pool).await.expect("the transactions");
            waiting > 0
        })
    }

    /// The variable is on by default in newer servers and missing in older ones. A level that does not name
    /// it turns it off.
    fn settings<'a>(pool: &'a Pool<Self>, level: &'a Level) -> BoxFuture<'a, Option<String>> {
        const NAME: &str = "innodb_snapshot_isolation";
        Box::pin(async move {
            let known = sqlx::query(AssertSqlSafe(format!("SHOW VARIABLES LIKE '{NAME}'")))
                .fetch_optional(pool)
                .await
                .expect("the variables")
                .is_some();
            let wanted = level.settings.contains(NAME);
            // A loaded machine must not turn a wait into a timeout.
            let settings = format!("SET SESSION innodb_lock_wait_timeout = 60; {}", level.settings);
            match (known, wanted) {
                (false, true) => None,
                (true, false) => Some(format!("SET SESSION {NAME} = OFF; {settings}")),
                _ => Some(settings),
            }
        })
    }
}

impl Engine for Sqlite {
    const TITLE: &'static str = "SQLite";
    const LEVELS: &'static [Level] = &[
        Level::new("`BEGIN`", "PRAGMA busy_timeout = 0", "BEGIN"),
        Level::new("`BEGIN IMMEDIATE`", "PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"),
    ];
    const ONE_WRITER: bool = true;
    const NUMBER: &'static str = "SELECT 0";

    ask!();

    /// Sessions never wait: with a busy timeout of zero the statement fails instead.
    fn is_waiting(_pool: &Pool<Self>, _number: i64) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
}
