//! The unit of work of the tests: it writes a row to a ledger and returns a unique number.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};

use atomically::idempotency::IdempotencyKey;
use atomically::{Error, Pessimistic, Tx};
use sqlx::{MySql, Pool, Postgres, Row as _, Sqlite};

use crate::support::{TestBackend, TestPool};

/// A database under test, with its statements for keys.
pub(crate) trait Keeps: TestBackend {
    /// Inserts one expired key for each row in `ledger`.
    const EXPIRED_KEYS: &'static str;

    /// Makes all keys expire.
    const EXPIRE_KEYS: &'static str;

    /// Extends one of the keys by a day.
    const TAKE_A_KEY_OVER: &'static str;

    /// Returns how many sessions of this database wait for a row lock.
    fn waiting(pool: &Pool<Self>) -> Pin<Box<dyn Future<Output = i64> + Send + '_>>;
}

impl Keeps for Postgres {
    const EXPIRED_KEYS: &'static str =
        "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at)
         SELECT sha256(k::text::bytea), '', '', now(), now() - interval '1 second' FROM ledger";
    const EXPIRE_KEYS: &'static str = "UPDATE atomically_key SET expires_at = now() - interval '1 second'";
    const TAKE_A_KEY_OVER: &'static str = "UPDATE atomically_key SET expires_at = now() + interval '1 day'
         WHERE digest = (SELECT digest FROM atomically_key LIMIT 1)";

    fn waiting(pool: &Pool<Self>) -> Pin<Box<dyn Future<Output = i64> + Send + '_>> {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        Box::pin(async move { sqlx::query_scalar(sql).fetch_one(pool).await.expect("the activity") })
    }
}

impl Keeps for MySql {
    const EXPIRED_KEYS: &'static str =
        "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at)
         SELECT UNHEX(SHA2(k, 256)), '', '', UTC_TIMESTAMP(), UTC_TIMESTAMP() - INTERVAL 1 SECOND
         FROM ledger";
    const EXPIRE_KEYS: &'static str =
        "UPDATE atomically_key SET expires_at = UTC_TIMESTAMP() - INTERVAL 1 SECOND";
    const TAKE_A_KEY_OVER: &'static str =
        "UPDATE atomically_key SET expires_at = UTC_TIMESTAMP() + INTERVAL 1 DAY ORDER BY digest LIMIT 1";

    fn waiting(pool: &Pool<Self>) -> Pin<Box<dyn Future<Output = i64> + Send + '_>> {
        let sessions = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = database()";
        Box::pin(async move {
            let sessions: Vec<i64> =
                sqlx::query_scalar(sessions).fetch_all(pool).await.expect("the sessions");
            let status: String = sqlx::query("SHOW ENGINE INNODB STATUS")
                .fetch_one(pool)
                .await
                .expect("the status")
                .get("Status");
            let waits = |entry: &&str| {
                let thread = entry.split_once("thread id ").and_then(|(_, rest)| rest.split(',').next());
                let session = thread.and_then(|id| id.trim().parse().ok());
                entry.contains("LOCK WAIT") && session.is_some_and(|session| sessions.contains(&session))
            };
            status.split("---TRANSACTION").filter(waits).count() as i64
        })
    }
}

impl Keeps for Sqlite {
    const EXPIRED_KEYS: &'static str =
        "INSERT INTO atomically_key (digest, fingerprint, run, created_at, expires_at)
         SELECT randomblob(32), '', '', unixepoch(), unixepoch() - 1 FROM ledger";
    const EXPIRE_KEYS: &'static str = "UPDATE atomically_key SET expires_at = unixepoch() - 1";
    const TAKE_A_KEY_OVER: &'static str = "UPDATE atomically_key SET expires_at = unixepoch() + 86400
         WHERE digest = (SELECT digest FROM atomically_key LIMIT 1)";

    fn waiting(_pool: &Pool<Self>) -> Pin<Box<dyn Future<Output = i64> + Send + '_>> {
        Box::pin(async { 0 })
    }
}

pub(crate) async fn ledger<DB: Keeps>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    let table = DB::sql("CREATE TABLE ledger (k BIGINT NOT NULL, answer BIGINT NOT NULL)");
    DB::pool_execute(&pool, table, &[]).await.expect("a table");
    Pessimistic::default().on(&pool).create_key_table().await.expect("the table of keys");
    pool
}

/// Writes the row and returns its number.
pub(crate) async fn effect<DB: Keeps>(tx: &mut Tx<DB>, k: i64) -> Result<i64, sqlx::Error> {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let answer = NEXT.fetch_add(1, Ordering::Relaxed);
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?, ?)"), &[k, answer]).await?;
    Ok(answer)
}

/// The effect as a unit of its own.
pub(crate) async fn work<DB: Keeps>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    Ok(effect(tx, 1).await?)
}

pub(crate) async fn effects<DB: Keeps>(pool: &Pool<DB>, k: i64) -> i64 {
    let count = DB::sql("SELECT COUNT(*) FROM ledger WHERE k = ?");
    DB::pool_fetch(pool, count, &[k]).await.expect("a count")
}

/// Returns the number of the only effect.
pub(crate) async fn stored_response<DB: Keeps>(pool: &Pool<DB>, k: i64) -> i64 {
    assert_eq!(effects(pool, k).await, 1);
    let query = DB::sql("SELECT answer FROM ledger WHERE k = ?");
    DB::pool_fetch(pool, query, &[k]).await.expect("the response")
}

/// Makes all keys expire.
pub(crate) async fn expire<DB: Keeps>(pool: &Pool<DB>) {
    let expire = DB::sql("UPDATE atomically_key SET expires_at = created_at");
    DB::pool_execute(pool, expire, &[]).await.expect("expired");
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new("tests", text).expect("a key")
}
