//! What differs between the databases.

use atomically::{Begin, Isolation, Options};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{Connection as _, Executor as _, MySql, Pool, Postgres, Row as _, Sqlite};

use crate::program::{CONTENT, RESET};
use crate::support::TestBackend;

/// How a transaction is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) name: &'static str,
    /// The statement that opens it on a plain connection.
    pub(crate) begin: &'static str,
    pub(crate) isolation: Isolation,
    /// SQLite: the lock that BEGIN acquires.
    pub(crate) lock: Option<Begin>,
}

impl Level {
    pub(crate) fn options(self) -> Options {
        match self.lock {
            Some(begin) => Options::new().begin(begin),
            None => Options::new(),
        }
    }
}

/// The response to a statement on a plain connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The first column of the row, if there is one.
    Ok(Option<i64>),
    /// SQLite: another connection holds the lock.
    Busy,
    /// The transaction has failed and may be retried.
    Conflict,
    Deadlock,
    Violation,
}

pub(crate) trait Engine: TestBackend {
    const LEVELS: &'static [Level];
    /// The clause that locks rows; empty if there are no row locks.
    const FOR_UPDATE: &'static str;
    /// The same for locks in share mode.
    const FOR_SHARE: &'static str;
    /// The clause that skips rows that others have locked.
    const SKIP_LOCKED: &'static str;
    /// Whether a changed row can be returned.
    const HAS_RETURNING: bool = true;
    /// The type of integers in a cast.
    const INTEGER: &'static str = "BIGINT";

    /// Sets the server up for connections that are opened later.
    fn prepare(pool: &Pool<Self>) -> impl Future<Output = ()> + Send;

    /// Opens a connection. On SQLite it does not wait for locks.
    fn connect(url: &str) -> impl Future<Output = Self::Connection> + Send;

    /// The server's identifier of the session.
    fn session(connection: &mut Self::Connection) -> impl Future<Output = i64> + Send;

    /// Whether the session is blocked by another one.
    fn is_blocked(watcher: &mut Self::Connection, session: i64) -> impl Future<Output = bool> + Send;

    fn send(connection: &mut Self::Connection, sql: String) -> impl Future<Output = Answer> + Send;

    /// Resets the tables, in one round trip.
    fn reset(pool: &Pool<Self>) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The content of the tables.
    fn content(pool: &Pool<Self>) -> impl Future<Output = String> + Send;
}

/// The functions that differ between databases only in their types.
macro_rules! table_functions {
    () => {
        async fn reset(pool: &Pool<Self>) -> sqlx::Result<()> {
            sqlx::raw_sql(RESET).execute(pool).await.map(drop)
        }

        async fn content(pool: &Pool<Self>) -> String {
            let rows = sqlx::query(CONTENT).fetch_all(pool).await.expect("the content");
            let shown = rows.iter().map(|row| {
                let (table, id, value): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
                format!("{table} {id} = {value}")
            });
            shown.collect::<Vec<_>>().join(", ")
        }
    };
}

const fn level(name: &'static str, begin: &'static str, isolation: Isolation) -> Level {
    Level { name, begin, isolation, lock: None }
}

impl Engine for Postgres {
    const LEVELS: &'static [Level] = &[
        level("read committed", "BEGIN ISOLATION LEVEL READ COMMITTED", Isolation::ReadCommitted),
        level("repeatable read", "BEGIN ISOLATION LEVEL REPEATABLE READ", Isolation::RepeatableRead),
        level("serializable", "BEGIN ISOLATION LEVEL SERIALIZABLE", Isolation::Serializable),
    ];
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    const FOR_SHARE: &'static str = " FOR SHARE";
    const SKIP_LOCKED: &'static str = " FOR UPDATE SKIP LOCKED";

    /// Deadlocks are detected early, because the victim does not matter here. The conflicts of SERIALIZABLE
    /// depend on the query plan, which must not change while dead rows accumulate. A vacuum that truncates a
    /// table would block clients.
    async fn prepare(pool: &Pool<Self>) {
        let mut connection = pool.acquire().await.expect("a connection");
        let no_vacuum = "ALTER TABLE one SET (autovacuum_enabled = off); \
                         ALTER TABLE two SET (autovacuum_enabled = off)";
        connection.execute(sqlx::raw_sql(no_vacuum)).await.expect("a setting");
        for set in [
            "deadlock_timeout = 15",
            "enable_indexscan = off",
            "enable_indexonlyscan = off",
            "enable_bitmapscan = off",
        ] {
            let sql = format!(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {set}', current_database()); END $$"
            );
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("a setting");
        }
        connection.close().await.expect("close the connection, which lacks the settings");
    }

    async fn connect(url: &str) -> Self::Connection {
        Self::Connection::connect(url).await.expect("connect")
    }

    async fn session(connection: &mut Self::Connection) -> i64 {
        sqlx::query_scalar("SELECT pg_backend_pid()::bigint").fetch_one(connection).await.expect("a session")
    }

    table_functions!();

    async fn is_blocked(watcher: &mut Self::Connection, session: i64) -> bool {
        sqlx::query_scalar("SELECT cardinality(pg_blocking_pids($1::int)) > 0")
            .bind(session)
            .fetch_one(watcher)
            .await
            .expect("an answer")
    }

    async fn send(connection: &mut Self::Connection, sql: String) -> Answer {
        let row = connection.fetch_optional(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await;
        match row {
            Ok(row) => Answer::Ok(row.and_then(|row| row.try_get(0).ok())),
            Err(error) => match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("40001") => Answer::Conflict,
                Some("40P01") => Answer::Deadlock,
                Some("23505") => Answer::Violation,
                _ => panic!("{error}"),
            },
        }
    }
}

/// At READ COMMITTED only, where InnoDB locks no gaps between the rows that a search passes.
impl Engine for MySql {
    const LEVELS: &'static [Level] = &[level(
        "read committed",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION",
        Isolation::ReadCommitted,
    )];
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    const FOR_SHARE: &'static str = " LOCK IN SHARE MODE";
    const SKIP_LOCKED: &'static str = " FOR UPDATE SKIP LOCKED";
    const HAS_RETURNING: bool = false;
    const INTEGER: &'static str = "SIGNED";

    async fn prepare(_: &Pool<Self>) {}

    async fn connect(url: &str) -> Self::Connection {
        Self::Connection::connect(url).await.expect("connect")
    }

    async fn session(connection: &mut Self::Connection) -> i64 {
        sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)")
            .fetch_one(connection)
            .await
            .expect("a session")
    }

    table_functions!();

    /// Reads InnoDB's status, because `innodb_trx` is a cached copy.
    async fn is_blocked(watcher: &mut Self::Connection, session: i64) -> bool {
        let status = watcher.fetch_one(sqlx::raw_sql("SHOW ENGINE INNODB STATUS")).await.expect("the status");
        let status: String = status.get("Status");
        let thread = format!("thread id {session},");
        let transactions = status.split("\n---TRANSACTION ").skip(1);
        transactions.filter(|one| one.contains(&thread)).any(|one| one.contains("\nLOCK WAIT "))
    }

    async fn send(connection: &mut Self::Connection, sql: String) -> Answer {
        let is_change = sql.starts_with("UPDATE");
        let text = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        let result = if is_change {
            let done = connection.execute(text).await;
            done.map(|done| i64::try_from(done.rows_affected()).ok().filter(|rows| *rows > 0))
        } else {
            let row = connection.fetch_optional(text).await;
            row.map(|row| row.and_then(|row| row.try_get(0).ok()))
        };
        match result {
            Ok(value) => Answer::Ok(value),
            Err(error) => match error.as_database_error().and_then(|error| error.try_downcast_ref()) {
                Some(error) if MySqlDatabaseError::number(error) == 1213 => Answer::Deadlock,
                Some(error) if error.number() == 1062 => Answer::Violation,
                _ => panic!("{error}"),
            },
        }
    }
}

impl Engine for Sqlite {
    const LEVELS: &'static [Level] = &[
        Level { lock: Some(Begin::Deferred), ..level("deferred", "BEGIN", Isolation::Serializable) },
        Level {
            lock: Some(Begin::Immediate),
            ..level("immediate", "BEGIN IMMEDIATE", Isolation::Serializable)
        },
    ];
    const FOR_UPDATE: &'static str = "";
    const FOR_SHARE: &'static str = "";
    const SKIP_LOCKED: &'static str = "";

    async fn prepare(_: &Pool<Self>) {}

    async fn connect(url: &str) -> Self::Connection {
        let mut connection = Self::Connection::connect(url).await.expect("connect");
        let settings = "PRAGMA busy_timeout = 0; PRAGMA synchronous = OFF";
        connection.execute(sqlx::raw_sql(settings)).await.expect("the settings");
        connection
    }

    async fn session(_: &mut Self::Connection) -> i64 {
        0
    }

    table_functions!();

    async fn is_blocked(_: &mut Self::Connection, _: i64) -> bool {
        false
    }

    async fn send(connection: &mut Self::Connection, sql: String) -> Answer {
        let row = connection.fetch_optional(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await;
        match row {
            Ok(row) => Answer::Ok(row.and_then(|row| row.try_get(0).ok())),
            Err(error) => match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("5") => Answer::Busy,
                Some("517") => Answer::Conflict,
                Some("1555" | "2067") => Answer::Violation,
                _ => panic!("{error}"),
            },
        }
    }
}
