//! The support code of the integration tests: databases to run on, and one interface to all of them.

#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) mod ledger;
#[allow(dead_code, reason = "SQLite has no network")]
pub(crate) mod proxy;
mod mysql;
mod postgres;
mod sqlite;
mod statements;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Atomic, Backend, Error, Options, PoolTransactor, Serializable, TransactorExt as _, Tx};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, Pool, SqlStr};
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use test_servers as servers;

/// Computes a number from several rows as of one moment.
///
/// It reads with locks, because a snapshot of MariaDB under load may contain a transaction without an earlier
/// one that it has waited for.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) async fn at_one_moment<DB: TestBackend>(pool: &Pool<DB>, sql: &str) -> i64 {
    let db = Serializable::default().on(pool).attempts(1_000).deadline(Duration::from_secs(60));
    let read = async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::fetch(tx, DB::sql(sql), &[]).await?);
    db.run(read).await.expect("a number")
}

type BoxStream<'a, T> = std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send + 'a>>;
type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs tests that are generic over the database on each of them.
#[allow(unused_macros, reason = "each test binary uses its part")]
macro_rules! on_every_database {
    ($($module:ident :: $test:ident),* $(,)?) => {
        on_every_database!(@on postgres sqlx::Postgres, $($module::$test)*);
        on_every_database!(@on mariadb sqlx::MySql, $($module::$test)*);
        on_every_database!(@on sqlite sqlx::Sqlite, $($module::$test)*);
    };
    (@on $name:ident $database:ty, $($module:ident :: $test:ident)*) => {
        mod $name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$module::$test::<$database>().await;
                }
            )*
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use on_every_database;

/// Runs tests that are generic over the database on each server: SQLite has neither a network nor row locks.
#[allow(unused_macros, reason = "each test binary uses its part")]
macro_rules! on_every_server {
    ($($module:ident :: $test:ident),* $(,)?) => {
        $crate::support::on_every_database!(@on postgres_server sqlx::Postgres, $($module::$test)*);
        $crate::support::on_every_database!(@on mariadb_server sqlx::MySql, $($module::$test)*);
    };
}
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use on_every_server;

/// A database under test: how to create an empty one, and statements over integers, enough for every
/// scenario.
///
/// Scenarios write `?` for a parameter, whatever the database.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) trait TestBackend: Backend {
    /// Selects the isolation level of the session.
    const LEVEL: &'static str;

    /// Selects the isolation level of the open transaction.
    const LEVEL_INSIDE: &'static str;

    /// The beginning of [`LIMITS`](Self::LIMITS) with 2 s for locks and 3 s for statements.
    const TWO_AND_THREE_SECONDS: &'static str;

    /// The limits on statements and lock waits, as one text.
    const LIMITS: &'static str;

    /// The sum of all accounts of a bank, as an integer.
    const TOTAL: &'static str;

    /// A part of every commit request on the wire.
    const COMMIT: &'static str;

    /// A pool of connections to an empty database of its own.
    fn pool(connections: u32) -> BoxFuture<'static, TestPool<Self>>;

    /// How many transactions are open on this database, without this query, and how many locks they hold.
    fn open_transactions(pool: &Pool<Self>) -> BoxFuture<'_, i64>;

    /// Waits until no transaction is open. Units can wait like that, too.
    fn until_no_transaction_is_open(pool: &Pool<Self>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for _ in 0..2_400 {
                if Self::open_transactions(pool).await == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("a transaction is still open after 60 s");
        })
    }

    fn execute<'a>(
        tx: &'a mut Tx<Self>,
        sql: SqlStr,
        arguments: &'a [i64],
    ) -> BoxFuture<'a, sqlx::Result<u64>>;
    fn execute_nullable<'a>(
        tx: &'a mut Tx<Self>,
        sql: SqlStr,
        arguments: &'a [Option<i64>],
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

    /// `db.apply` of a statement with values.
    fn apply<'a>(
        db: &'a PoolTransactor<Self, Atomic>,
        sql: SqlStr,
        arguments: &'a [i64],
    ) -> BoxFuture<'a, Result<u64, Error>>;

    /// Runs a text without preparing it.
    fn plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<()>>;

    /// The same, with the number of affected rows.
    fn execute_plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<u64>>;

    /// The integer that a text returns, without preparing it.
    fn fetch_plain<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxFuture<'a, sqlx::Result<i64>>;

    /// Streams the integers of a query.
    fn stream<'a>(tx: &'a mut Tx<Self>, sql: SqlStr) -> BoxStream<'a, sqlx::Result<i64>>;
    fn raw<'a>(connection: &'a mut Self::Connection, sql: &'static str) -> BoxFuture<'a, sqlx::Result<()>>;

    /// A connection outside of every pool that has written to row 1 of `counter` and holds its lock.
    fn blocker(url: &str) -> BoxFuture<'_, Self::Connection>;

    /// A separate small pool on the same database.
    fn another(url: &str) -> BoxFuture<'_, Pool<Self>>;

    /// The limits and the isolation level of the pool's next connection, outside of a transaction; and the
    /// limits inside of one.
    fn limits(pool: &Pool<Self>) -> BoxFuture<'_, (String, String)>;
    fn limits_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String>;

    /// The isolation level inside of a transaction, in the spelling of SQL.
    fn level_inside(tx: &mut Tx<Self>) -> BoxFuture<'_, String>;

    /// The options, with a statement timeout if the database has one.
    fn with_timeouts(options: Options, limit: Duration) -> Options {
        options.statement_timeout(limit)
    }

    /// The text with the database's own placeholders.
    fn sql(text: &str) -> SqlStr;
}

/// A database under test that is a server, with sessions and locks of its own. SQLite has no implementation
/// that does nothing, so a test that needs a server does not compile there.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) trait ServerBackend: TestBackend {
    /// A statement that limits lock waits of this transaction to a very short time.
    const SHORT_LOCK_TIMEOUT: &'static str;

    /// The number of the connection's own session.
    const SESSION: &'static str;

    /// The text of [`next_session`](Self::next_session).
    const NEXT_SESSION: &'static str;

    /// Makes the server end a session.
    const KILL: &'static str;

    /// The lowest number above `session` of another session of this database, or 0 if there is none.
    fn next_session(admin: &Pool<Self>, session: i64) -> BoxFuture<'_, i64> {
        Box::pin(async move {
            Self::pool_fetch(admin, Self::sql(Self::NEXT_SESSION), &[session]).await.expect("a session")
        })
    }

    /// Ends a session. Servers respond to a kill before the session has ended, so this waits until it has.
    fn kill_session(admin: &Pool<Self>, session: i64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // An error is that of a session that has ended in the meantime.
            let _ = Self::pool_execute(admin, Self::sql(Self::KILL), &[session]).await;
            for _ in 0..30_000 {
                if Self::next_session(admin, session - 1).await != session {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            panic!("session {session} has not ended in 60 s");
        })
    }

    /// Ends the sessions of all connections to this database, one after the other.
    fn kill_sessions(url: &str) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let admin = PoolOptions::<Self>::new().max_connections(1).connect(url).await.expect("a pool");
            let mut session = Self::next_session(&admin, 0).await;
            assert!(session != 0, "there was no session");
            while session != 0 {
                Self::kill_session(&admin, session).await;
                session = Self::next_session(&admin, session).await;
            }
        })
    }
}

/// A pool, and the values that must live as long as it does.
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

/// A name that is unique among all tests of this process, and of other processes on the same server.
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

fn with_database(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a URL that names a database");
    format!("{server}/{name}")
}

/// Polls until `ask` returns the wanted value, with a limit that suits a loaded machine: for effects that a
/// server produces some time after a client has disconnected. The limit costs time only in a test that fails.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) async fn eventually<T: PartialEq + std::fmt::Debug>(wanted: T, mut ask: impl AsyncFnMut() -> T) {
    let mut got = ask().await;
    for _ in 0..2_400 {
        if got == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        got = ask().await;
    }
    panic!("wanted {wanted:?}, and after 60 s it still is {got:?}");
}

/// Repeats a round with this limit, and with longer ones if it fails, until it succeeds: on a busy machine a
/// short limit may pass before the round has reached what it tests.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) async fn with_longer_limits<T, E: std::fmt::Debug>(
    first: Duration,
    mut round: impl AsyncFnMut(Duration) -> Result<T, E>,
) -> T {
    let mut limit = first;
    loop {
        match round(limit).await {
            Ok(value) => return value,
            Err(error) if limit > Duration::from_secs(30) => panic!("within {limit:?}: {error:?}"),
            Err(_) => limit *= 3,
        }
    }
}

/// Repeats a round that a pause of a busy machine can spoil, until it succeeds. A defect spoils every round.
#[allow(dead_code, reason = "each test binary uses its part")]
pub(crate) async fn in_one_of<T, E: std::fmt::Debug>(
    rounds: usize,
    mut round: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut errors = Vec::new();
    while errors.len() < rounds {
        match round().await {
            Ok(value) => return value,
            Err(error) => errors.push(error),
        }
    }
    panic!("in each of {rounds} rounds: {errors:?}");
}
