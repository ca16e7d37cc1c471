//! Stores an order and the messages about it in one transaction. The messages arrive in order, never for an
//! order that was rolled back, and have their effects once, although one is delivered twice.
//!
//! `cargo run --example outbox`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Event, JobEvent, Pessimistic, Purge, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The unit of work: the order and its messages. Those of one order are delivered one after the other.
async fn place(tx: &mut Tx<Sqlite>, outbox: &Queue<Sqlite>, order: i64) -> Result<(), Error> {
    for text in ["placed", "paid"] {
        let message = NewJob::new(&(order, text))?.in_order_of(format!("order {order}"))?;
        let _ = outbox.enqueue(tx, message).await?; // `Duplicate` is for jobs with a unique key
    }
    // A constraint refuses what does not fit, and the messages are rolled back as well.
    sqlx::query("INSERT INTO orders (id) VALUES ($1)").bind(order).execute(&mut *tx).await?;
    Ok(())
}

/// Stands for another system. A real one stores the ids of messages in the transaction of their effects.
#[derive(Debug, Clone, Default)]
struct Warehouse(Arc<Mutex<Vec<Received>>>);
type Received = (i64, i64, String, u32); // Its id, its order, its text, and how often it came.

impl Warehouse {
    /// Takes a message, and ignores it if it has been delivered before.
    fn deliver(&self, id: i64, (order, text): (i64, String)) {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match messages.iter_mut().find(|known| known.0 == id) {
            Some(known) => known.3 += 1,
            None => messages.push((id, order, text, 1)),
        }
    }

    /// The messages about an order as they arrived, and how often each was delivered.
    fn messages(&self, order: i64) -> Vec<(String, u32)> {
        let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().filter(|known| known.1 == order).map(|known| (known.2.clone(), known.3)).collect()
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
    let outbox = Queue::new("outbox", &pool)?;
    outbox.create_tables().await?;
    let warehouse = Warehouse::default();

    for order in [1, 2] {
        db.run(async |tx: &mut Tx<Sqlite>| place(tx, &outbox, order).await).await?;
        println!("Order {order} is stored, with its messages.");
    }
    match db.run(async |tx: &mut Tx<Sqlite>| place(tx, &outbox, 100).await).await {
        Err(error) if error.constraint().is_some() => {
            println!("Order 100 is rolled back with its messages: {error}.")
        }
        other => bail!("order 100 was not refused: {other:?}"),
    }

    // A relay that is killed before it notes its delivery. Its lease is so short only for the demonstration.
    let killed = outbox.clone().lease(Duration::from_secs(1));
    let claim = killed.claim(1).await?.pop().context("there is no message")?;
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
    let all_delivered = || async {
        let _ = delivered.acquire_many(4).await;
    };
    // Messages that could not be delivered are kept for two weeks, so that an operator can look at them.
    let purge = Purge::new(&pool).dead_jobs(&outbox, Duration::from_secs(14 * 24 * 60 * 60));
    let purge = purge.every(Duration::from_secs(60), all_delivered());
    let work = relay.run(all_delivered(), |claim: Arc<Claim<Sqlite>>| {
        let warehouse = warehouse.clone();
        async move {
            warehouse.deliver(claim.id(), claim.payload()?);
            Ok(())
        }
    });
    let both = async { tokio::join!(work, purge) };
    timeout(Duration::from_secs(60), both).await.context("not all messages were delivered")?;
    println!("The next relay delivers all messages, the first one again, with the same id.");

    let expected = |times| [("placed".to_owned(), times), ("paid".to_owned(), 1)];
    let (first, second) = (warehouse.messages(1), warehouse.messages(2));
    ensure!(first == expected(2) && second == expected(1), "the warehouse got {first:?} and {second:?}");
    println!("The warehouse has orders 1 and 2, once each.");
    Ok(())
}
