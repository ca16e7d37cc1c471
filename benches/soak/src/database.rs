//! The databases, their tables, and statements over integers.

use anyhow::Result;
use async_trait::async_trait;
use atomically::holds::{HoldKey, Holds};
use atomically::lease::Lease;
use atomically::queue::Queue;
use atomically::{Atomic, Backend, Error, Pessimistic, PoolTransactor, Tx};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, Row as _, SqlSafeStr as _, SqlStr};
use test_servers::Server;

use crate::Product;

/// How many accounts there are, and what each of them has at first.
pub(crate) const ACCOUNTS: i64 = 64;
pub(crate) const BALANCE: i64 = 1_000_000;
/// How many counters are hot.
pub(crate) const COUNTERS: i64 = 8;
/// How many leases the holders compete for.
pub(crate) const LEASES: i64 = 16;
/// How many events there are, and how many seats each of them has.
pub(crate) const EVENTS: i64 = 4;
pub(crate) const SEATS: i64 = 20;

/// A database under test. Statements have `?` for a parameter, whatever the database.
#[async_trait]
pub(crate) trait SoakDatabase: Backend {
    const TITLE: &'static str;

    /// The key of a row.
    type Id: HoldKey<Self> + From<i64>;

    /// Writes each change of `hot` to `hot_change`, so that each commit of a single statement counts once.
    const TRIGGER: &'static [&'static str];

    /// The numbers of the sessions of this user, without that of the query.
    const SESSIONS: &'static str;

    fn server() -> Server;
    fn sql(text: &str) -> SqlStr;
    fn end_session(number: i64) -> String;
    async fn execute(tx: &mut Tx<Self>, sql: SqlStr, arguments: &[i64]) -> sqlx::Result<u64>;
    async fn fetch(tx: &mut Tx<Self>, sql: SqlStr, arguments: &[i64]) -> sqlx::Result<i64>;
    async fn apply(db: &PoolTransactor<Self, Atomic>, sql: SqlStr, arguments: &[i64]) -> Result<u64, Error>;
    /// Runs a text as it is.
    async fn raw(pool: &Pool<Self>, sql: String) -> sqlx::Result<()>;
    /// The first column of each row, an integer.
    async fn integers(pool: &Pool<Self>, sql: String) -> sqlx::Result<Vec<i64>>;
}

/// Implements the statements, which are the same on each database apart from its types.
macro_rules! database {
    ($database:ty, { $($own:tt)* }) => {
        #[async_trait]
        impl SoakDatabase for $database {
            $($own)*

            type Id = i64;

            async fn execute(tx: &mut Tx<Self>, sql: SqlStr, arguments: &[i64]) -> sqlx::Result<u64> {
                let mut query = sqlx::query(sql);
                for argument in arguments {
                    query = query.bind(*argument);
                }
                Ok(query.execute(tx).await?.rows_affected())
            }

            async fn fetch(tx: &mut Tx<Self>, sql: SqlStr, arguments: &[i64]) -> sqlx::Result<i64> {
                let mut query = sqlx::query_scalar(sql);
                for argument in arguments {
                    query = query.bind(*argument);
                }
                query.fetch_one(tx).await
            }

            async fn apply(
                db: &PoolTransactor<Self, Atomic>,
                sql: SqlStr,
                arguments: &[i64],
            ) -> Result<u64, Error> {
                let mut query = sqlx::query(sql);
                for argument in arguments {
                    query = query.bind(*argument);
                }
                db.apply(query).await
            }

            async fn raw(pool: &Pool<Self>, sql: String) -> sqlx::Result<()> {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop)
            }

            async fn integers(pool: &Pool<Self>, sql: String) -> sqlx::Result<Vec<i64>> {
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(pool).await?;
                rows.iter().map(|row| row.try_get(0)).collect()
            }
        }
    };
}

database!(Postgres, {
    const TITLE: &'static str = "PostgreSQL";

    const TRIGGER: &'static [&'static str] = &[
        "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO hot_change VALUES (NEW.op, NEW.id); RETURN NULL; END'",
        "CREATE TRIGGER log AFTER UPDATE ON hot FOR EACH ROW EXECUTE FUNCTION log()",
    ];

    const SESSIONS: &'static str = "SELECT pid::bigint FROM pg_stat_activity
        WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'";

    fn server() -> Server {
        crate::started(Product::Postgres)
    }

    fn sql(text: &str) -> SqlStr {
        let mut parts = text.split('?');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for (i, part) in parts.enumerate() {
            sql.push_str(&format!("${}{part}", i + 1));
        }
        AssertSqlSafe(sql).into_sql_str()
    }

    fn end_session(number: i64) -> String {
        format!("SELECT pg_terminate_backend({number})")
    }
});

database!(MySql, {
    const TITLE: &'static str = "MariaDB";

    const TRIGGER: &'static [&'static str] = &["CREATE TRIGGER log AFTER UPDATE ON hot FOR EACH ROW
        INSERT INTO hot_change VALUES (NEW.op, NEW.id)"];

    const SESSIONS: &'static str = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist
        WHERE user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AND id <> CONNECTION_ID()";

    fn server() -> Server {
        crate::started(Product::Mariadb)
    }

    fn sql(text: &str) -> SqlStr {
        AssertSqlSafe(text.to_owned()).into_sql_str()
    }

    fn end_session(number: i64) -> String {
        format!("KILL {number}")
    }
});

/// `ledger` has one row for each unit that has committed, `inner_row` would have one for each savepoint that
/// was rolled back.
const TABLES: [&str; 11] = [
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)",
    "CREATE TABLE ledger (op BIGINT PRIMARY KEY, source BIGINT NOT NULL, target BIGINT NOT NULL, amount BIGINT NOT NULL)",
    "CREATE TABLE inner_row (op BIGINT PRIMARY KEY)",
    "CREATE TABLE hot (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, op BIGINT NOT NULL)",
    "CREATE TABLE hot_change (op BIGINT PRIMARY KEY, hot BIGINT NOT NULL)",
    "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
    "CREATE TABLE payment (op BIGINT NOT NULL)",
    "CREATE TABLE effect (op BIGINT NOT NULL)",
    "CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL)",
    "CREATE TABLE purchase (op BIGINT NOT NULL)",
    "CREATE TABLE fenced (lease BIGINT PRIMARY KEY, token BIGINT NOT NULL, commits BIGINT NOT NULL)",
];

/// Creates the tables, and those of the crate.
pub(crate) async fn create_tables<DB: SoakDatabase>(pool: &Pool<DB>) -> Result<()> {
    for sql in TABLES.iter().chain(DB::TRIGGER) {
        DB::raw(pool, (*sql).to_owned()).await?;
    }
    for (table, rows, values) in [
        ("account", ACCOUNTS, format!(", {BALANCE}")),
        ("hot", COUNTERS, String::from(", 0, 0")),
        ("counter", COUNTERS, String::from(", 0")),
        ("fenced", LEASES, String::from(", 0, 0")),
        ("event", EVENTS, format!(", {SEATS}")),
    ] {
        let rows: Vec<_> = (1..=rows).map(|id| format!("({id}{values})")).collect();
        DB::raw(pool, format!("INSERT INTO {table} VALUES {}", rows.join(", "))).await?;
    }
    let db = Pessimistic::default().on(pool);
    db.create_operation_table().await?;
    db.create_key_table().await?;
    Queue::new("soak", pool)?.create_tables().await?;
    Lease::new("soak", pool).create_tables().await?;
    Holds::<DB, DB::Id>::on(pool, "event", "id", "seats").create_tables().await?;
    Ok(())
}
