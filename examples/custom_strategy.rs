//! A custom strategy: optimistic in the first attempts, and with a row lock in later ones.
//!
//! `cargo run --example custom_strategy`

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use atomically::{
    Attempt, Error, Isolation, Plan, PoolTransactor, RowLock, Strategy, Transactor, TransactorExt as _, Tx,
};
use futures_util::future::try_join_all;
use sqlx::{Sqlite, SqlitePool};

/// Takes no lock for this many attempts, and locks from then on, so that no unit is overtaken for ever.
#[derive(Debug, Clone, Copy)]
struct LockAfter(u32);

impl Strategy for LockAfter {
    fn plan(&self, attempt: &Attempt) -> Plan {
        let plan = Plan::new(Isolation::ReadCommitted);
        if attempt.number <= self.0 { plan } else { plan.locking(RowLock::NO_KEY_UPDATE) }
    }
}

/// The unit of work, which does not depend on the strategy: it marks what it reads for update, and checks the
/// version.
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
    let file = directory.path().join("counter.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, version INTEGER NOT NULL);
        INSERT INTO counter (id, value, version) VALUES (1, 0, 0);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    // `new` binds any strategy to a pool, as `Pessimistic::default().on(&pool)` does for those of the crate.
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
