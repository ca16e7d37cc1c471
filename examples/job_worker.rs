//! Runs jobs with a worker, each with its effect once, although another worker freezes with a job and comes
//! back later.
//!
//! `cargo run --example job_worker`
//!
//! The lease of the frozen worker expires, so its job is claimed again. A lock or a lease alone would not
//! stop it from going on afterwards. What stops it is the fence: the job is completed in the transaction of
//! its effect.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Event, JobEvent, Pessimistic, PoolTransactor, Purge, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const PARCELS: u32 = 4;

/// The handler: the effect of the job and its end, in one transaction.
async fn post_parcel(
    db: &PoolTransactor<Sqlite, Pessimistic>,
    worker: &str,
    claim: &Claim<Sqlite>,
) -> Result<(), Error> {
    let parcel: u32 = claim.payload()?;
    db.run(async |tx: &mut Tx<Sqlite>| {
        let insert = sqlx::query("INSERT INTO posted (parcel, worker) VALUES ($1, $2)");
        insert.bind(parcel).bind(worker).execute(&mut *tx).await?;
        // Fails if another worker has claimed the job since; the effect is then rolled back.
        claim.complete_in(tx).await
    })
    .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("parcels.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    // No key prevents a parcel from being posted twice: only the queue does.
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE posted (parcel INTEGER NOT NULL, worker TEXT NOT NULL);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Pessimistic::default().on(&pool);
    // So short only for the demonstration: see `Queue::lease`.
    let queue = Queue::new("parcels", &pool)?.lease(Duration::from_secs(1));
    queue.create_tables().await?;

    let jobs = (1..=PARCELS).map(|parcel| NewJob::new(&parcel)).collect::<Result<Vec<_>, _>>()?;
    db.run(async |tx: &mut Tx<Sqlite>| queue.enqueue_many(tx, &jobs).await).await?;
    println!("{PARCELS} parcels are to be posted: one job each, enqueued in one transaction.");

    let claim = queue.claim(1).await?.pop().context("there is no job")?;
    let parcel: u32 = claim.payload()?;
    println!("Ann claims parcel {parcel} for one second, and freezes.");

    let completed = Arc::new(Semaphore::new(0));
    let counter = completed.clone();
    let worker = Worker::new(&queue).handlers(2).poll_every(Duration::from_millis(100)).observed_by(
        move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::Completed { .. }, .. } = event {
                counter.add_permits(1);
            }
        },
    );
    // Usually a signal: the worker and the purge stop when this future is ready.
    let shutdown = || async {
        let _ = completed.acquire_many(PARCELS).await;
    };
    // Jobs that have used up their attempts are kept for two weeks, so that an operator can look at them.
    let purge = Purge::new(&pool).dead_jobs(&queue, Duration::from_secs(14 * 24 * 60 * 60));
    let purge = purge.every(Duration::from_secs(60), shutdown());
    let work = worker.run(shutdown(), |claim: Arc<Claim<Sqlite>>| {
        let db = db.clone();
        async move { Ok(post_parcel(&db, "Bob", &claim).await?) }
    });
    let both = async { tokio::join!(work, purge) };
    timeout(Duration::from_secs(60), both).await.context("the worker did not complete all jobs")?;
    println!("Bob posts all {PARCELS} parcels, parcel {parcel} when Ann's lease has expired.");

    match post_parcel(&db, "Ann", &claim).await {
        Err(error) if error.is_stale_claim() => {
            println!("Ann goes on with parcel {parcel}, and gets: {error}.")
        }
        other => bail!("parcel {parcel} was posted twice: Ann got {other:?}"),
    }
    let posted: Vec<(u32, String)> =
        sqlx::query_as("SELECT parcel, worker FROM posted ORDER BY parcel").fetch_all(&pool).await?;
    ensure!(posted.iter().map(|(parcel, _)| *parcel).eq(1..=PARCELS), "posted were {posted:?}");
    ensure!(posted.iter().all(|(_, worker)| worker == "Bob"), "posted were {posted:?}");
    println!("Each of {PARCELS} parcels is posted once, and none by Ann.");
    Ok(())
}
