//! What the examples show on one database, on every database.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Event, JobEvent, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::support::TestBackend;
use crate::{ask, claim_one, job};

const LEASE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(60);
const PARCELS: i64 = 6;

const ANN: i64 = 1;
const BOB: i64 = 2;
const CLEO: i64 = 3;
const DAN: i64 = 4;

async fn create<DB: TestBackend>(pool: &Pool<DB>, table: &str) {
    DB::pool_execute(pool, DB::sql(table), &[]).await.expect("a table");
}

/// The effect of a job: an entry in a ledger without a key, so that only the queue prevents a second one.
async fn enter<DB: TestBackend>(tx: &mut Tx<DB>, worker: i64, claim: &Claim<DB>) -> Result<(), Error> {
    let insert = DB::sql("INSERT INTO posted (parcel, worker, attempt) VALUES (?, ?, ?)");
    DB::execute(tx, insert, &[claim.payload()?, worker, claim.attempt().into()]).await?;
    Ok(())
}

/// A handler: the effect and the end of the job, in one transaction.
async fn post<DB: TestBackend>(
    db: &PoolTransactor<DB, Pessimistic>,
    worker: i64,
    claim: &Claim<DB>,
) -> Result<(), Error> {
    db.run(async |tx: &mut Tx<DB>| {
        enter(tx, worker, claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// Runs a worker that is killed after the effect of its first job, and before the commit. Returns the parcel.
async fn killed<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>) -> i64 {
    let (entered, mut parcels) = unbounded_channel();
    let db = Pessimistic::default().on(pool);
    let worker = Worker::new(queue).handlers(1);
    let work = worker.run(pending::<()>(), |claim| {
        let (db, entered) = (db.clone(), entered.clone());
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                enter(tx, BOB, &claim).await?;
                let _ = entered.send(claim.payload()?);
                pending::<Result<(), Error>>().await
            })
            .await?;
            Ok(())
        }
    });
    // Dropping a worker comes closest to killing its process.
    tokio::select! {
        () = work => panic!("the worker ended by itself"),
        parcel = timeout(LIMIT, parcels.recv()) => parcel.expect("a parcel in time").expect("a parcel"),
    }
}

/// Runs two workers until all jobs are complete.
async fn complete_all<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>) {
    let (completed, mut completions) = unbounded_channel();
    let worker = Worker::new(queue).handlers(2).poll_every(POLL).observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Completed { id }, .. } = event {
            let _ = completed.send(*id);
        }
    });
    let (stop, stopped) = watch::channel(());
    let run = |name: i64| {
        let (worker, db, mut stopped) = (&worker, Pessimistic::default().on(pool), stopped.clone());
        async move {
            let shutdown = async move { stopped.changed().await };
            let handler = |claim: Arc<Claim<DB>>| {
                let db = db.clone();
                async move { Ok(post(&db, name, &claim).await?) }
            };
            worker.run(shutdown, handler).await;
        }
    };
    let all_complete = async {
        let count = async {
            for _ in 0..PARCELS {
                completions.recv().await;
            }
        };
        let counted = timeout(LIMIT, count).await;
        drop(stop);
        counted
    };
    let ((), (), counted) = tokio::join!(run(CLEO), run(DAN), all_complete);
    counted.expect("all jobs complete in time");
}

pub(crate) async fn each_job_has_its_effect_once_despite_a_killed_and_a_frozen_worker<DB: TestBackend>() {
    let pool = DB::pool(8).await;
    create(
        &pool,
        "CREATE TABLE posted (parcel BIGINT NOT NULL, worker BIGINT NOT NULL, attempt BIGINT NOT NULL)",
    )
    .await;
    let queue = Queue::new("parcels", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<NewJob> = (1..=PARCELS).map(job).collect();
    db.run(async |tx: &mut Tx<DB>| queue.enqueue_many(tx, &jobs).await).await.expect("the jobs");

    let short = queue.clone().lease(LEASE);
    let frozen = claim_one(&short).await;
    let first: i64 = frozen.payload().expect("a parcel");
    let second = killed(&pool, &short).await;
    complete_all(&pool, &queue).await;

    let error = post(&db, ANN, &frozen).await.expect_err("the job was done by another worker");
    assert!(error.is_stale_claim(), "{error:?}");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM posted").await, PARCELS);
    assert_eq!(ask(&pool, "SELECT COUNT(DISTINCT parcel) FROM posted").await, PARCELS);
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM posted WHERE worker IN (1, 2)").await, 0);
    for parcel in [first, second] {
        let attempt = DB::sql("SELECT attempt FROM posted WHERE parcel = ?");
        let attempt = DB::pool_fetch(&pool, attempt, &[parcel]).await.expect("an attempt");
        assert!(attempt > 1, "parcel {parcel} was posted in its first attempt");
    }
}

/// The receiver of messages, which ignores those that it has received before.
#[derive(Debug, Clone, Default)]
struct Warehouse(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    deliveries: Vec<(i64, i64)>,
    seen: BTreeSet<i64>,
    orders: Vec<i64>,
}

impl Warehouse {
    fn deliver(&self, id: i64, order: i64) {
        let mut shelves = self.0.lock().expect("the shelves");
        shelves.deliveries.push((id, order));
        if shelves.seen.insert(id) {
            shelves.orders.push(order);
        }
    }

    /// All deliveries, sorted, and the orders that came of them.
    fn look(&self) -> (Vec<(i64, i64)>, Vec<i64>) {
        let shelves = self.0.lock().expect("the shelves");
        let (mut deliveries, mut orders) = (shelves.deliveries.clone(), shelves.orders.clone());
        deliveries.sort_unstable();
        orders.sort_unstable();
        (deliveries, orders)
    }
}

#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("out of stock")]
    OutOfStock,
    #[error(transparent)]
    Transaction(#[from] Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Stores an order and its message. Returns the message's id.
async fn place<DB: TestBackend>(
    tx: &mut Tx<DB>,
    outbox: &Queue<DB>,
    wake: &Arc<Notify>,
    order: i64,
    quantity: i64,
) -> Result<i64, OrderError> {
    DB::execute(tx, DB::sql("INSERT INTO orders (id) VALUES (?)"), &[order]).await?;
    let message = outbox.enqueue(tx, NewJob::new(&order)?).await?;
    let wake = wake.clone();
    tx.on_commit(async move { wake.notify_one() });
    if quantity > 10 {
        return Err(OrderError::OutOfStock);
    }
    Ok(message.id().expect("no duplicate"))
}

/// Runs a relay that is killed after its first delivery, before it can record it.
async fn killed_relay<DB: TestBackend>(outbox: &Queue<DB>, warehouse: &Warehouse) {
    let delivered = Arc::new(Notify::new());
    let relay = Worker::new(outbox).handlers(1);
    let work = relay.run(pending::<()>(), |claim: Arc<Claim<DB>>| {
        let (warehouse, delivered) = (warehouse.clone(), delivered.clone());
        async move {
            warehouse.deliver(claim.id(), claim.payload()?);
            delivered.notify_one();
            pending().await
        }
    });
    tokio::select! {
        () = work => panic!("the relay ended by itself"),
        delivered = timeout(LIMIT, delivered.notified()) => delivered.expect("a delivery in time"),
    }
}

/// Runs a relay until this many messages are delivered.
async fn relay<DB: TestBackend>(
    outbox: &Queue<DB>,
    wake: &Arc<Notify>,
    warehouse: &Warehouse,
    messages: usize,
) {
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
    let work = relay.run(all_complete, |claim: Arc<Claim<DB>>| {
        let warehouse = warehouse.clone();
        async move {
            warehouse.deliver(claim.id(), claim.payload()?);
            Ok(())
        }
    });
    timeout(LIMIT, work).await.expect("all messages in time");
}

pub(crate) async fn a_message_is_stored_with_its_order_and_delivered_again_after_a_crash<DB: TestBackend>() {
    let pool = DB::pool(8).await;
    create(&pool, "CREATE TABLE orders (id BIGINT PRIMARY KEY)").await;
    let outbox = Queue::new("outbox", &pool).expect("a name");
    outbox.create_tables().await.expect("the tables");
    let db = Pessimistic::default().on(&pool);
    let (wake, warehouse) = (Arc::new(Notify::new()), Warehouse::default());

    let first = db.run(async |tx: &mut Tx<DB>| place(tx, &outbox, &wake, 1, 3).await).await.expect("order 1");
    let refused = db.run(async |tx: &mut Tx<DB>| place(tx, &outbox, &wake, 2, 100).await).await;
    assert!(matches!(refused, Err(OrderError::OutOfStock)), "{refused:?}");
    killed_relay(&outbox.clone().lease(LEASE), &warehouse).await;
    assert_eq!(warehouse.look().0, [(first, 1)]);

    let third = db.run(async |tx: &mut Tx<DB>| place(tx, &outbox, &wake, 3, 2).await).await.expect("order 3");
    relay(&outbox, &wake, &warehouse, 2).await;
    assert_eq!(warehouse.look(), (vec![(first, 1), (first, 1), (third, 3)], vec![1, 3]));
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM orders WHERE id IN (1, 3)").await, 2);
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM orders").await, 2);
}
