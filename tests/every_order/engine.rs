//! What the two ways of running a pair need to know about a database.

use atomically::{Begin, Isolation, Options};
use sqlx::{Connection as _, Executor as _, Pool, Postgres, Row as _, Sqlite};

use crate::program::{CONTENT, RESET};
use crate::support::TestBackend;

/// How a transaction is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) name: &'static str,
    /// How it is opened by hand.
    pub(crate) begin: &'static str,
    pub(crate) isolation: Isolation,
    /// SQLite's.
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

/// What a plain connection was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// The first column of its row, where there is one.
    Ok(Option<i64>),
    /// SQLite: somebody has the lock.
    Busy,
    /// The transaction has failed and may be tried again.
    Conflict,
    Deadlock,
    Violation,
}

pub(crate) trait Engine: TestBackend {
    const LEVELS: &'static [Level];
    /// A lock on one row, where there are locks on rows.
    const FOR_UPDATE: &'static str;

    /// Settings for connections to come.
    fn prepare(pool: &Pool<Self>) -> impl Future<Output = ()> + Send;

    /// A connection that gives up at once where it would have to wait without a server that knows.
    fn connect(url: &str) -> impl Future<Output = Self::Connection> + Send;

    /// What identifies the connection to its server.
    fn session(connection: &mut Self::Connection) -> impl Future<Output = i64> + Send;

    /// Whether the session waits for another one.
    fn is_blocked(watcher: &mut Self::Connection, session: i64) -> impl Future<Output = bool> + Send;

    fn send(connection: &mut Self::Connection, sql: String) -> impl Future<Output = Told> + Send;

    /// Brings the tables back to where they began, in one round trip.
    fn reset(pool: &Pool<Self>) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// What is in the tables.
    fn content(pool: &Pool<Self>) -> impl Future<Output = String> + Send;
}

/// What is the same text for every database, and another type.
macro_rules! whole_tables {
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

    /// Deadlocks are found early: which transaction is ended does not matter here. What SERIALIZABLE takes
    /// for a conflict depends on the plan, which must not change while the tables fill with dead rows.
    async fn prepare(pool: &Pool<Self>) {
        let mut connection = pool.acquire().await.expect("a connection");
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
        connection.close().await.expect("the next one has them");
    }

    async fn connect(url: &str) -> Self::Connection {
        Self::Connection::connect(url).await.expect("connect")
    }

    async fn session(connection: &mut Self::Connection) -> i64 {
        sqlx::query_scalar("SELECT pg_backend_pid()::bigint").fetch_one(connection).await.expect("a session")
    }

    whole_tables!();

    async fn is_blocked(watcher: &mut Self::Connection, session: i64) -> bool {
        sqlx::query_scalar("SELECT cardinality(pg_blocking_pids($1::int)) > 0")
            .bind(session)
            .fetch_one(watcher)
            .await
            .expect("an answer")
    }

    async fn send(connection: &mut Self::Connection, sql: String) -> Told {
        let row = connection.fetch_optional(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await;
        match row {
            Ok(row) => Told::Ok(row.and_then(|row| row.try_get(0).ok())),
            Err(error) => match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("40001") => Told::Conflict,
                Some("40P01") => Told::Deadlock,
                Some("23505") => Told::Violation,
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

    async fn prepare(_: &Pool<Self>) {}

    async fn connect(url: &str) -> Self::Connection {
        let mut connection = Self::Connection::connect(url).await.expect("connect");
        let settings = "PRAGMA busy_timeout = 0; PRAGMA synchronous = OFF";
        connection.execute(sqlx::raw_sql(settings)).await.expect("no patience");
        connection
    }

    async fn session(_: &mut Self::Connection) -> i64 {
        0
    }

    whole_tables!();

    async fn is_blocked(_: &mut Self::Connection, _: i64) -> bool {
        false
    }

    async fn send(connection: &mut Self::Connection, sql: String) -> Told {
        let row = connection.fetch_optional(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await;
        match row {
            Ok(row) => Told::Ok(row.and_then(|row| row.try_get(0).ok())),
            Err(error) => match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("5") => Told::Busy,
                Some("517") => Told::Conflict,
                Some("1555" | "2067") => Told::Violation,
                _ => panic!("{error}"),
            },
        }
    }
}
