//! Enqueues a job at most once for each key: however often a product changes, it is indexed once for all
//! changes so far.
//!
//! `cargo run --example unique_jobs`

use anyhow::{Context as _, ensure};
use atomically::queue::{Enqueued, NewJob, Queue};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};

/// The unit of work: the change, and the job that follows from it, in one transaction.
async fn rename(
    tx: &mut Tx<Sqlite>,
    queue: &Queue<Sqlite>,
    product: i64,
    name: &str,
) -> Result<Enqueued, Error> {
    let update = sqlx::query("UPDATE product SET name = $1 WHERE id = $2").bind(name).bind(product);
    update.execute(&mut *tx).await?;
    // Unique until claimed: a change during the indexing gets a job of its own, as the indexer may have read
    // the product before. A job that must not run twice at the same time would be `unique` instead, until it
    // is complete.
    let job = NewJob::new(&product)?.unique_until_claimed(format!("index:{product}"))?;
    queue.enqueue(tx, job).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
        INSERT INTO product (id, name) VALUES (1, 'tea'), (2, 'cup');";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let queue = Queue::new("index", &pool)?;
    queue.create_tables().await?;
    let db = Pessimistic::default().on(&pool);

    for name in ["green tea", "black tea", "white tea"] {
        let enqueued = db.run(async |tx: &mut Tx<Sqlite>| rename(tx, &queue, 1, name).await).await?;
        println!("The product is now {name:?}: {}.", described(enqueued));
    }
    let enqueued = db.run(async |tx: &mut Tx<Sqlite>| rename(tx, &queue, 2, "mug").await).await?;
    println!("Another product is now \"mug\": {}.", described(enqueued));

    let claims = queue.claim(10).await?;
    ensure!(claims.len() == 2, "{} jobs were claimed", claims.len());
    println!("The indexer claims {} jobs.", claims.len());

    let enqueued = db.run(async |tx: &mut Tx<Sqlite>| rename(tx, &queue, 1, "oolong").await).await?;
    let id = enqueued.id().context("a change during the indexing was not enqueued")?;
    println!("The product changes while it is being indexed: {}.", described(enqueued));

    for claim in &claims {
        db.run(async |tx: &mut Tx<Sqlite>| claim.complete_in(tx).await).await?;
    }
    let waiting = queue.claim(10).await?;
    ensure!(waiting.iter().map(|claim| claim.id()).eq([id]), "{} jobs are left", waiting.len());
    println!("One job is left, for the last change.");
    Ok(())
}

fn described(enqueued: Enqueued) -> String {
    match enqueued.id() {
        Some(id) => format!("job {id} is enqueued"),
        None => "a job is waiting already".to_owned(),
    }
}
