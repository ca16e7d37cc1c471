//! An order and the message about it are stored together, and the message arrives: never for an order that was rolled
//! back, and taken once, though the relay is killed after it has delivered and the next one delivers again.
//!
//! `cargo run --example outbox`
//!
//! `on_commit`, as in `order_stock`, is less work, and enough where nobody asks why it did not happen: to empty a cache that
//! would expire anyway, or to wake a relay that looks by itself, as here. It is lost when the process ends between the
//! commit and the hook. What others rely on belongs into the queue.

mod support;

use std::collections::BTreeSet;
use std::future::pending;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Event, JobEvent, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

/// As short as this for the sake of the story: see [`Queue::lease`].
const LEASE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

const IN_STOCK: i64 = 10;

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The unit of work. It answers the id of the message.
    async fn place(
        tx: &mut Tx<Db>,
        outbox: &Queue<Db>,
        wake: &Arc<Notify>,
        order: Order,
    ) -> Result<Option<i64>, OrderError> {
        let store = sql("INSERT INTO atomically_outbox_order (id, quantity) VALUES (?, ?)");
        sqlx::query(store).bind(order.id).bind(order.quantity).execute(&mut *tx).await?;
        let message = outbox.enqueue(tx, NewJob::new(&order.id)?).await?;
        let wake = wake.clone();
        tx.on_commit(async move { wake.notify_one() });
        // Last, to show that the place does not matter: the message of an order that is rolled back is not there.
        if order.quantity > IN_STOCK {
            return Err(OrderError::OutOfStock { wanted: order.quantity });
        }
        Ok(message.id())
    }

    /// Delivers one message and is killed before it can say so.
    async fn killed(outbox: &Queue<Db>, warehouse: &Warehouse) -> anyhow::Result<()> {
        let delivered = Arc::new(Notify::new());
        let relay = Worker::new(outbox).handlers(1);
        let work = relay.run(pending::<()>(), |claim: Arc<Claim<Db>>| {
            let (warehouse, delivered) = (warehouse.clone(), delivered.clone());
            async move {
                warehouse.take(claim.id(), claim.payload()?);
                delivered.notify_one();
                pending().await
            }
        });
        // Dropping the relay is what is left of it when its process is killed: nothing is said to anybody.
        tokio::select! {
            () = work => bail!("the relay was not told to stop, and did"),
            delivered = timeout(LIMIT, delivered.notified()) => delivered.context("nothing was delivered"),
        }
    }

    /// Delivers until so many messages are complete.
    async fn relay(
        outbox: &Queue<Db>,
        wake: &Arc<Notify>,
        warehouse: &Warehouse,
        messages: usize,
    ) -> anyhow::Result<()> {
        let (completed, mut completions) = unbounded_channel();
        let relay = Worker::new(outbox).wake(wake.clone()).observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::Completed { id }, .. } = event {
                let _ = completed.send(*id);
            }
        });
        let all_complete = async {
            for _ in 0..messages {
                completions.recv().await;
            }
        };
        // A handler that returns `Ok` has its job completed.
        let work = relay.run(all_complete, |claim: Arc<Claim<Db>>| {
            let warehouse = warehouse.clone();
            async move {
                warehouse.take(claim.id(), claim.payload()?);
                Ok(())
            }
        });
        timeout(LIMIT, work).await.context("there is still something to deliver")
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        let outbox = Queue::new("atomically_outbox", pool)?.lease(LEASE);
        outbox.create_tables().await?;
        // Those of a run that did not end.
        sqlx::query("DELETE FROM atomically_job WHERE queue = 'atomically_outbox'").execute(pool).await?;
        let db = Pessimistic::default().on(pool);
        let (wake, warehouse) = (Arc::new(Notify::new()), Warehouse::default());

        let one = Order { id: 1, quantity: 3 };
        let first = db.run(async |tx: &mut Tx<Db>| place(tx, &outbox, &wake, one).await).await?;
        let first = first.context("there is no message about order 1")?;
        say!("Order 1 is stored, and with it message {first} to the warehouse.");

        let two = Order { id: 2, quantity: 100 };
        let refused = db.run(async |tx: &mut Tx<Db>| place(tx, &outbox, &wake, two).await).await;
        let Err(OrderError::OutOfStock { wanted }) = refused else {
            bail!("order 2 was to be out of stock, and ended with {refused:?}");
        };
        say!("Order 2 wants {wanted} of {IN_STOCK}: it is rolled back, and its message with it.");

        killed(&outbox, &warehouse).await?;
        ensure!(warehouse.deliveries() == [(first, 1)], "delivered were {:?}", warehouse.deliveries());
        say!("A relay delivers message {first}, and is killed before it can say so.");

        let three = Order { id: 3, quantity: 2 };
        let third = db.run(async |tx: &mut Tx<Db>| place(tx, &outbox, &wake, three).await).await?;
        let third = third.context("there is no message about order 3")?;
        relay(&outbox, &wake, &warehouse, 2).await?;
        let mut deliveries = warehouse.deliveries();
        deliveries.sort_unstable();
        ensure!(deliveries == [(first, 1), (first, 1), (third, 3)], "delivered were {deliveries:?}");
        say!("Order 3 is stored, with message {third}. The next relay delivers it, and, when the lease of the first");
        say!("relay has lapsed, message {first} again: by the same id, so that the warehouse knows it and ignores it.");

        let orders = "SELECT id FROM atomically_outbox_order ORDER BY id";
        let orders: Vec<i64> = sqlx::query_scalar(orders).fetch_all(pool).await?;
        let taken = warehouse.orders();
        ensure!(orders == [1, 3] && taken == orders, "stored are {orders:?}, and the warehouse took {taken:?}");
        say!("The database says the same: orders 1 and 3, and the warehouse has each of them once.");
        Ok(())
    }
}

const TABLES: [(&str, &str); 1] =
    [("atomically_outbox_order", "id BIGINT PRIMARY KEY, quantity BIGINT NOT NULL")];

#[derive(Debug, Clone, Copy)]
struct Order {
    id: i64,
    quantity: i64,
}

/// Why there is no order.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("{wanted} were wanted, {IN_STOCK} are in stock")]
    OutOfStock { wanted: i64 },
    #[error(transparent)]
    Transaction(#[from] atomically::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The receiver, which is another system: it knows nothing of this database.
///
/// A real one keeps the ids in a database of its own, and adds one in the transaction that does what the message asks for.
#[derive(Debug, Clone, Default)]
struct Warehouse(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    /// All that came, each an id and an order.
    deliveries: Vec<(i64, i64)>,
    seen: BTreeSet<i64>,
    orders: Vec<i64>,
}

impl Warehouse {
    fn take(&self, id: i64, order: i64) {
        let mut shelves = self.shelves();
        shelves.deliveries.push((id, order));
        if shelves.seen.insert(id) {
            shelves.orders.push(order);
        }
    }

    fn deliveries(&self) -> Vec<(i64, i64)> {
        self.shelves().deliveries.clone()
    }

    fn orders(&self) -> Vec<i64> {
        let mut orders = self.shelves().orders.clone();
        orders.sort_unstable();
        orders
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
