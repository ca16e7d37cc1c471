//! Leaves the choice between version checks and row locks to `Adaptive`: it decides for each key, while the
//! load changes.
//!
//! `cargo run --example hot_rows`

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::ensure;
use atomically::{Adaptive, Error, PoolTransactor, TransactorExt as _, Tx};
use futures_util::future::try_join_all;
use sqlx::{Sqlite, SqlitePool};

/// Attempts without and with a lock.
#[derive(Default)]
struct Attempts {
    optimistic: AtomicU32,
    locking: AtomicU32,
}

impl Attempts {
    fn count(&self, tx: &Tx<Sqlite>) {
        let counter = if tx.plan().row_lock.is_some() { &self.locking } else { &self.optimistic };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts since the last call.
    fn take(&self) -> (u32, u32) {
        (self.optimistic.swap(0, Ordering::Relaxed), self.locking.swap(0, Ordering::Relaxed))
    }
}

/// The unit of work, as for `Optimistic`: it marks what it reads for update, and checks the version.
async fn sell(tx: &mut Tx<Sqlite>, product: i64) -> Result<(), Error> {
    let select = tx.for_update("SELECT sold, version FROM product WHERE id = $1");
    let (sold, version): (i64, i64) = sqlx::query_as(select).bind(product).fetch_one(&mut *tx).await?;
    let update = "UPDATE product SET sold = $1, version = version + 1 WHERE id = $2 AND version = $3";
    let updated = sqlx::query(update).bind(sold + 1).bind(product).bind(version).execute(&mut *tx).await?;
    tx.expect_one(updated.rows_affected())
}

/// Runs the unit. The key is what `Adaptive` observes: conflicts make it hot, and success cools it down.
async fn run(db: &PoolTransactor<Sqlite, Adaptive>, product: i64, attempts: &Attempts) -> Result<(), Error> {
    db.on_key(("product", product))
        .run(async |tx: &mut Tx<Sqlite>| {
            attempts.count(tx);
            sell(tx, product).await
        })
        .await
}

async fn buy_often(
    db: &PoolTransactor<Sqlite, Adaptive>,
    product: i64,
    attempts: &Attempts,
) -> Result<(), Error> {
    for _ in 0..50 {
        run(db, product, attempts).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE product (id INTEGER PRIMARY KEY, sold INTEGER NOT NULL, version INTEGER NOT NULL);
        INSERT INTO product (id, sold, version) VALUES (1, 0, 0), (2, 0, 0);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Adaptive::default().on(&pool).deadline(Duration::from_secs(60));
    let attempts = Attempts::default();

    buy_often(&db, 1, &attempts).await?;
    let (optimistic, locking) = attempts.take();
    ensure!(locking == 0, "{locking} attempts locked a row that nobody else wanted");
    println!("Product 1, one buyer: {optimistic} attempts, none of them with a lock.");

    try_join_all((0..8).map(|_| buy_often(&db, 2, &attempts))).await?;
    let (optimistic, locking) = attempts.take();
    ensure!(locking > optimistic, "{optimistic} without and {locking} with a lock");
    println!("Product 2, 8 buyers at once: {optimistic} attempts without a lock, and {locking} with one.");

    let sold: Vec<i64> = sqlx::query_scalar("SELECT sold FROM product ORDER BY id").fetch_all(&pool).await?;
    ensure!(sold == [50, 400], "sold were {sold:?}");
    println!("Sold are 50 and 400: no sale is lost.");
    Ok(())
}
