//! Stores an order and the message about it in one transaction. The message arrives, never for an order that
//! was rolled back, and has its effect once, although it is delivered twice.
//!
//! `cargo run --example outbox`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Event, JobEvent, Pessimistic, Purge, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The unit of work: the order and its message. Returns the id of the message.
async fn place(tx: &mut Tx<Sqlite>, outbox: &Queue<Sqlite>, order: i64) -> Result<Option<i64>, Error> {
    let message = outbox.enqueue(tx, NewJob::new(&order)?).await?;
    // A constraint refuses what does not fit, and the message is rolled back as well.
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(order).execute(&mut *tx).await?;
    Ok(message.id())
}

/// Stands for another system, which receives the messages. A real one stores the ids in its own database, in
/// the transaction that has the message's effect.
#[derive(Debug, Clone, Default)]
struct Warehouse(Arc<Mutex<BTreeMap<i64, (i64, u32)>>>);

impl Warehouse {
    /// Takes a message, and ignores it if it has been delivered before.
    fn deliver(&self, id: i64, order: i64) {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.entry(id).or_insert((order, 0)).1 += 1;
    }

    /// The orders, and how often the message about each was delivered.
    fn orders(&self) -> Vec<(i64, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("orders.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, CONSTRAINT wanted CHECK (id < 100));";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Pessimistic::default().on(&pool);
    // So short only for the demonstration: see `Queue::lease`.
    let outbox = Queue::new("outbox", &pool)?.lease(Duration::from_secs(1));
    outbox.create_tables().await?;
    let warehouse = Warehouse::default();

    for order in [1, 2] {
        let message = db.run(async |tx: &mut Tx<Sqlite>| place(tx, &outbox, order).await).await?;
        println!("Order {order} is stored, with message {}.", message.context("there is no message")?);
    }
    match db.run(async |tx: &mut Tx<Sqlite>| place(tx, &outbox, 100).await).await {
        Err(error) if error.constraint().is_some() => {
            println!("Order 100 is rolled back with its message: {error}.")
        }
        other => bail!("order 100 was not refused: {other:?}"),
    }

    // A relay that is killed between the delivery and its note that the message is delivered.
    let claim = outbox.claim(1).await?.pop().context("there is no message")?;
    warehouse.deliver(claim.id(), claim.payload()?);
    println!("A relay delivers message {}, and crashes.", claim.id());
    drop(claim);

    let delivered = Arc::new(Semaphore::new(0));
    let counter = delivered.clone();
    let relay =
        Worker::new(&outbox).poll_every(Duration::from_millis(100)).observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::Completed { .. }, .. } = event {
                counter.add_permits(1);
            }
        });
    let both_delivered = || async {
        let _ = delivered.acquire_many(2).await;
    };
    // Messages that could not be delivered are kept for two weeks, so that an operator can look at them.
    let purge = Purge::new(&pool).dead_jobs(&outbox, Duration::from_secs(14 * 24 * 60 * 60));
    let purge = purge.every(Duration::from_secs(60), both_delivered());
    let work = relay.run(both_delivered(), |claim: Arc<Claim<Sqlite>>| {
        let warehouse = warehouse.clone();
        async move {
            warehouse.deliver(claim.id(), claim.payload()?);
            Ok(())
        }
    });
    let both = async { tokio::join!(work, purge) };
    timeout(Duration::from_secs(60), both).await.context("not all messages were delivered")?;
    println!("The next relay delivers all messages, the first one again, with the same id.");

    let orders = warehouse.orders();
    ensure!(orders == [(1, 2), (2, 1)], "the warehouse got {orders:?}");
    println!("The warehouse has orders 1 and 2, once each.");
    Ok(())
}
