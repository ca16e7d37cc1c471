//! A strategy of one's own: optimistic as long as that goes well, with a lock when it does not.
//!
//! `cargo run --example custom_strategy`

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use atomically::{
    Attempt, Error, Isolation, Plan, PoolTransactor, RowLock, Strategy, Transactor, TransactorExt as _, Tx,
};
use futures_util::future::try_join_all;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

/// Takes no lock for this many attempts, and locks from then on: nobody is overtaken for ever.
#[derive(Debug, Clone, Copy)]
struct LockAfter(u32);

impl Strategy for LockAfter {
    fn plan(&self, attempt: &Attempt) -> Plan {
        let plan = Plan::new(Isolation::ReadCommitted);
        if attempt.number <= self.0 { plan } else { plan.locking(RowLock::NO_KEY_UPDATE) }
    }
}

/// Knows nothing of strategies: it says what it reads in order to change it, and checks the version.
async fn increment(tx: &mut Tx<Sqlite>) -> Result<(), Error> {
    let select = tx.for_update("SELECT value, version FROM counter WHERE id = 1");
    let (value, version): (i64, i64) = sqlx::query_as(select).fetch_one(&mut *tx).await?;
    let update = "UPDATE counter SET value = $1, version = version + 1 WHERE id = 1 AND version = $2";
    let done = sqlx::query(update).bind(value + 1).bind(version).execute(&mut *tx).await?;
    tx.expect_one(done.rows_affected())
}

const TASKS: i64 = 200;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new()
        .filename(directory.path().join("counter.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(8).connect_with(file).await?;
    sqlx::query("CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER, version INTEGER)")
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO counter VALUES (1, 0, 0)").execute(&pool).await?;

    // `new` does for any strategy what `Pessimistic::default().on(&pool)` does for one of the crate's.
    let db = PoolTransactor::new(LockAfter(2), &pool).deadline(Duration::from_secs(60));

    let (optimistic, locking) = (AtomicU32::new(0), AtomicU32::new(0));
    let increments = (0..TASKS).map(|_| count_one(&db, &optimistic, &locking));
    try_join_all(increments).await?;

    let value: i64 = sqlx::query_scalar("SELECT value FROM counter WHERE id = 1").fetch_one(&pool).await?;
    println!(
        "{TASKS} increments took {} optimistic and {} locking attempts; the counter says {value}.",
        optimistic.load(Ordering::Relaxed),
        locking.load(Ordering::Relaxed)
    );
    ensure!(value == TASKS, "{} increments were lost", TASKS - value);
    pool.close().await;
    Ok(())
}

async fn count_one(
    db: &impl Transactor<Sqlite>,
    optimistic: &AtomicU32,
    locking: &AtomicU32,
) -> Result<(), Error> {
    db.run(async |tx: &mut Tx<Sqlite>| {
        let attempts = if tx.plan().row_lock.is_some() { locking } else { optimistic };
        attempts.fetch_add(1, Ordering::Relaxed);
        increment(tx).await
    })
    .await
}
