//! The round trips of this crate's own calls: on rows, savepoints, keys and jobs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::queue::{Claim, NewJob, Queue, Retry, Worker};
use atomically::{Deltas, Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use futures_util::future::try_join_all;
use sqlx::{PgPool, Postgres};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::contender::pool;
use crate::wire::{Proxy, RoundTrip};

/// Long enough for the pool to test a connection that was released.
const SETTLED: Duration = Duration::from_millis(100);

/// Changes a job that was claimed.
type Change = for<'c> fn(&'c Claim<Postgres>) -> futures_util::future::BoxFuture<'c, Result<(), Error>>;

const CHANGES: [(&str, Change); 4] = [
    ("Claim::complete", |claim| Box::pin(claim.complete())),
    ("Claim::fail", |claim| Box::pin(async { claim.fail("no", Retry::Never).await.map(drop) })),
    ("Claim::release", |claim| Box::pin(claim.release())),
    ("Claim::extend", |claim| Box::pin(claim.extend())),
];

/// Returns each call, with its round trips.
pub(super) async fn all(proxy: &Proxy) -> Result<Vec<(&'static str, Vec<RoundTrip>)>> {
    let pool = pool(&proxy.url, 1, false).await?;
    let db = Pessimistic::default().on(&pool).reuse_connections();
    let queue = Queue::new("round-trips", &pool)?.reuse_connections().persistent(true);
    queue.create_tables().await?;
    db.create_key_table().await?;
    let mut calls = units(proxy, &db).await?;
    let enqueue = async || queue.enqueue_alone(NewJob::new(&1)?).await.map(drop);
    calls.push(("Queue::enqueue_alone", counted(proxy, enqueue).await?));
    calls.push(("Queue::claim", counted(proxy, async || queue.claim(1).await.map(drop)).await?));
    for (name, change) in CHANGES {
        let mut trips = Vec::new();
        // The first of them prepares its statement.
        for _ in 0..2 {
            let _ = queue.enqueue_alone(NewJob::new(&1)?).await?;
            let claim = queue.claim(1).await?.pop().context("no job")?;
            trips = once(proxy, async || change(&claim).await).await?;
        }
        calls.push((name, trips));
    }
    calls.push(("a Worker with 16 handlers, 16 jobs", worker(proxy, &db, &queue).await?));
    drop_tables(&pool).await?;
    Ok(calls)
}

/// Units of one `UPDATE`, and what is added to it.
async fn units(
    proxy: &Proxy,
    db: &PoolTransactor<Postgres, Pessimistic>,
) -> Result<Vec<(&'static str, Vec<RoundTrip>)>> {
    let plain = async || db.run(async |tx| update(tx).await).await;
    let locked = async || {
        db.run(async |tx| {
            tx.lock_rows("account", "id", &[1_i64, 2]).await?;
            update(tx).await
        })
        .await
    };
    let in_savepoint = async || db.run(async |tx| update_in_savepoint(tx).await).await;
    let in_two_savepoints = async || {
        db.run(async |tx| {
            update_in_savepoint(tx).await?;
            update_in_savepoint(tx).await
        })
        .await
    };
    let folded = async || {
        let two_rows = db.on_rows("account", "id", [1_i64, 2]);
        two_rows
            .run(async |tx| {
                tx.at_commit(sqlx::query(UPDATE).bind(1_i64))?.expect_one();
                tx.at_commit(sqlx::query(UPDATE).bind(2_i64))?.expect_one();
                Ok::<_, Error>(())
            })
            .await
    };
    let deltas = Deltas::on(db.pool(), "account", "id", "balance").reuse_connections();
    let additions = async || try_join_all((0..16).map(|_| deltas.add(1_i64, -1))).await.map(drop);
    let keyed = async || {
        let key = IdempotencyKey::new("round trips", rand::random::<u64>().to_string())
            .map_err(|error| Error::from(sqlx::Error::Encode(error.into())))?;
        db.once(&key).run(async |tx| update(tx).await).await.map(drop)
    };
    Ok(vec![
        ("a unit of one statement", counted(proxy, plain).await?),
        ("the same after lock_rows", counted(proxy, locked).await?),
        ("the same in a savepoint", counted(proxy, in_savepoint).await?),
        ("two such savepoints", counted(proxy, in_two_savepoints).await?),
        ("two rows of on_rows, two writes of at_commit", counted(proxy, folded).await?),
        ("16 concurrent calls of Deltas::add", counted(proxy, additions).await?),
        ("the same with once", counted(proxy, keyed).await?),
    ])
}

const UPDATE: &str = "UPDATE account SET balance = balance - 1 WHERE id = $1";

async fn update(tx: &mut Tx<Postgres>) -> Result<(), Error> {
    sqlx::query(UPDATE).bind(1_i64).execute(&mut *tx).await?;
    Ok(())
}

async fn update_in_savepoint(tx: &mut Tx<Postgres>) -> Result<(), Error> {
    tx.savepoint(async |tx: &mut Tx<Postgres>| update(tx).await).await
}

/// A worker with 16 handlers that finds 16 jobs.
async fn worker(
    proxy: &Proxy,
    db: &PoolTransactor<Postgres, Pessimistic>,
    queue: &Queue<Postgres>,
) -> Result<Vec<RoundTrip>> {
    const JOBS: usize = 16;
    let mut trips = Vec::new();
    // The first of them prepares its statements.
    for _ in 0..2 {
        let (handled, mut all_handled) = watch::channel(0);
        let jobs = (0..JOBS).map(|n| NewJob::new(&n)).collect::<Result<Vec<_>, _>>()?;
        db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await?;
        sleep(SETTLED).await;
        proxy.take();
        let handler = move |_: Arc<Claim<Postgres>>| {
            handled.send_modify(|handled| *handled += 1);
            async { Ok(()) }
        };
        let until = async { drop(all_handled.wait_for(|handled| *handled == JOBS).await) };
        Worker::new(queue).handlers(JOBS).run(until, handler).await;
        trips = proxy.take();
    }
    Ok(trips)
}

/// Counts the round trips of a call once its statements are prepared.
async fn counted(proxy: &Proxy, call: impl AsyncFn() -> Result<(), Error>) -> Result<Vec<RoundTrip>> {
    for _ in 0..3 {
        call().await?;
    }
    once(proxy, call).await
}

async fn once(proxy: &Proxy, call: impl AsyncFn() -> Result<(), Error>) -> Result<Vec<RoundTrip>> {
    sleep(SETTLED).await;
    proxy.take();
    call().await?;
    let mut trips = proxy.take();
    sleep(SETTLED).await;
    trips.extend(proxy.take().into_iter().map(|trip| RoundTrip { awaited: false, ..trip }));
    Ok(trips)
}

async fn drop_tables(pool: &PgPool) -> Result<()> {
    let tables = "DROP TABLE atomically_job, atomically_job_lease, atomically_key";
    sqlx::query(tables).execute(pool).await?;
    Ok(())
}
