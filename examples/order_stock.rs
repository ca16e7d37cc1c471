//! Takes an order from stock, and sends a mail after the commit: never for an order that was rolled back, and
//! once for an order that took several attempts.
//!
//! `cargo run --example order_stock`
//!
//! A hook does not survive a crash between the commit and the mail. Where that matters, use a job: see
//! `outbox`.

use anyhow::{bail, ensure};
use atomically::{Optimistic, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Barrier;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("{wanted} were ordered, and {stock} are in stock")]
    OutOfStock { wanted: i64, stock: i64 },
    #[error(transparent)]
    Database(#[from] atomically::Error),
}

/// By way of the crate's error, which knows what the database reported.
impl From<sqlx::Error> for OrderError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Stands for a mail server.
type Mailbox = UnboundedSender<i64>;

/// The unit of work. Returns the number of attempts that it took.
async fn order(
    tx: &mut Tx<Sqlite>,
    id: i64,
    quantity: i64,
    mailbox: &Mailbox,
    all_have_read: &Barrier,
) -> Result<u32, OrderError> {
    // Where this is called does not matter: the hook of an attempt that does not commit never runs.
    let mailbox = mailbox.clone();
    tx.on_commit(async move { mailbox.send(id) });

    let select = tx.for_update("SELECT stock, version FROM product WHERE id = 1");
    let (stock, version): (i64, i64) = sqlx::query_as(select).fetch_one(&mut *tx).await?;
    if stock < quantity {
        return Err(OrderError::OutOfStock { wanted: quantity, stock });
    }
    // Only for the demonstration: every customer reads before the first one writes.
    if tx.attempt() == 1 {
        all_have_read.wait().await;
    }
    let update = "UPDATE product SET stock = $1, version = version + 1 WHERE id = 1 AND version = $2";
    let updated = sqlx::query(update).bind(stock - quantity).bind(version).execute(&mut *tx).await?;
    tx.expect_one(updated.rows_affected())?;
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(id).execute(&mut *tx).await?;
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("orders.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE product (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL, version INTEGER NOT NULL);
        CREATE TABLE orders (id INTEGER PRIMARY KEY);
        INSERT INTO product (id, stock, version) VALUES (1, 10, 0);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Optimistic::default().on(&pool);
    let (mailbox, mut mails) = unbounded_channel();
    let (alone, both) = (Barrier::new(1), Barrier::new(2));

    match db.run(async |tx: &mut Tx<Sqlite>| order(tx, 1, 100, &mailbox, &alone).await).await {
        Err(error @ OrderError::OutOfStock { .. }) => println!("Order 1 is rolled back: {error}."),
        other => bail!("order 1 ended with {other:?}"),
    }
    ensure!(mails.try_recv().is_err(), "a mail was sent about an order that was rolled back");
    println!("No mail is sent.");

    let (two, three) = tokio::try_join!(
        db.run(async |tx: &mut Tx<Sqlite>| order(tx, 2, 3, &mailbox, &both).await),
        db.run(async |tx: &mut Tx<Sqlite>| order(tx, 3, 4, &mailbox, &both).await),
    )?;
    println!("Orders 2 and 3 meet at the same product: {two} and {three} attempts.");

    let mut sent: Vec<i64> = std::iter::from_fn(|| mails.try_recv().ok()).collect();
    sent.sort_unstable();
    let stock: i64 = sqlx::query_scalar("SELECT stock FROM product").fetch_one(&pool).await?;
    ensure!(two + three > 2 && sent == [2, 3] && stock == 3, "mails {sent:?}, {stock} in stock");
    println!("One mail about each is sent, and {stock} of 10 are left in stock.");
    Ok(())
}
