//! Four workers and one queue: one of them is killed in the middle of a job, one is only taken for dead and comes back.
//! Each job has its effect once all the same.
//!
//! `cargo run --example job_worker`
//!
//! A lock would not do: who is frozen does not notice that his has lapsed. What decides is the token of a claim, which is
//! checked in the transaction that has the job's effect.

mod support;

use std::future::pending;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Error, Event, JobEvent, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::time::timeout;

/// As short as this for the sake of the story: see [`Queue::lease`].
const LEASE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(60);

const PARCELS: i64 = 6;

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The whole of a handler: the effect of the job and its end, in one transaction.
    async fn post(db: &PoolTransactor<Db, Pessimistic>, worker: &str, claim: &Claim<Db>) -> Result<(), Error> {
        db.run(async |tx: &mut Tx<Db>| {
            enter(tx, worker, claim).await?;
            claim.complete_in(tx).await
        })
        .await
    }

    async fn enter(tx: &mut Tx<Db>, worker: &str, claim: &Claim<Db>) -> Result<(), Error> {
        let enter = sql("INSERT INTO atomically_worker_ledger (parcel, worker, attempt) VALUES (?, ?, ?)");
        let parcel: i64 = claim.payload()?;
        let attempt = i64::from(claim.attempt());
        sqlx::query(enter).bind(parcel).bind(worker).bind(attempt).execute(&mut *tx).await?;
        Ok(())
    }

    /// A worker that is killed when it has entered its first parcel, and before it can commit. Answers that parcel.
    async fn killed(pool: &Pool<Db>, queue: &Queue<Db>, name: &'static str) -> anyhow::Result<i64> {
        let (entered, mut parcels) = unbounded_channel();
        let db = Pessimistic::default().on(pool);
        let worker = Worker::new(queue).handlers(1);
        let work = worker.run(pending::<()>(), |claim| {
            let (db, entered) = (db.clone(), entered.clone());
            async move {
                db.run(async |tx: &mut Tx<Db>| {
                    enter(tx, name, &claim).await?;
                    let _ = entered.send(claim.payload()?);
                    pending::<Result<(), Error>>().await
                })
                .await?;
                Ok(())
            }
        });
        // Dropping the worker is what is left of it when its process is killed: nothing is said to anybody.
        tokio::select! {
            () = work => bail!("{name} was not told to stop, and did"),
            parcel = timeout(LIMIT, parcels.recv()) => parcel?.context("no parcel was entered"),
        }
    }

    /// Two workers at once, until so many jobs are complete.
    async fn work_off(pool: &Pool<Db>, queue: &Queue<Db>, jobs: i64) -> anyhow::Result<()> {
        let (completed, mut completions) = unbounded_channel();
        let worker = Worker::new(queue).handlers(2).poll_every(POLL).observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::Completed { id }, .. } = event {
                let _ = completed.send(*id);
            }
        });
        let (stop, stopped) = watch::channel(());
        let works = |name: &'static str| {
            let (worker, db, mut stopped) = (&worker, Pessimistic::default().on(pool), stopped.clone());
            async move {
                let shutdown = async move { stopped.changed().await };
                let handler = |claim: Arc<Claim<Db>>| {
                    let db = db.clone();
                    async move { Ok(post(&db, name, &claim).await?) }
                };
                worker.run(shutdown, handler).await;
            }
        };
        let all_complete = async {
            let count = async {
                for _ in 0..jobs {
                    completions.recv().await;
                }
            };
            let counted = timeout(LIMIT, count).await;
            drop(stop);
            counted
        };
        let ((), (), counted) = tokio::join!(works("Cleo"), works("Dan"), all_complete);
        counted.context("there is still something to do")
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        let queue = Queue::new("atomically_worker", pool)?.lease(LEASE);
        queue.create_tables().await?;
        // Those of a run that did not end.
        sqlx::query("DELETE FROM atomically_job WHERE queue = 'atomically_worker'").execute(pool).await?;
        let db = Pessimistic::default().on(pool);

        let parcels = (1..=PARCELS).map(|parcel| NewJob::new(&parcel)).collect::<Result<Vec<_>, _>>()?;
        db.run(async |tx: &mut Tx<Db>| queue.enqueue_many(tx, &parcels).await).await?;
        say!("{PARCELS} parcels are to be posted: as many jobs, stored in one transaction.");

        let claim = queue.claim(1).await?.pop().context("Ann finds no job")?;
        let anns: i64 = claim.payload()?;
        say!("Ann claims parcel {anns} for {LEASE:?}, and freezes.");

        let bobs = killed(pool, &queue, "Bob").await?;
        say!("Bob claims parcel {bobs}, enters it into the ledger, and is killed before he commits.");

        work_off(pool, &queue, PARCELS).await?;
        let ledger = "SELECT parcel, worker, attempt FROM atomically_worker_ledger ORDER BY parcel";
        let entries: Vec<(i64, String, i64)> = sqlx::query_as(ledger).fetch_all(pool).await?;
        for (parcel, worker, attempt) in &entries {
            let taken_over = [anns, bobs].contains(parcel);
            ensure!(!taken_over || *attempt > 1, "parcel {parcel} was posted at its first attempt, by {worker}");
            let how = if taken_over { ", when the lease has lapsed" } else { "" };
            say!("{worker} posts parcel {parcel}, at attempt {attempt}{how}.");
        }

        let Err(error) = post(&db, "Ann", &claim).await else {
            bail!("parcel {anns} was posted twice, the second time by Ann");
        };
        ensure!(error.is_stale_claim(), "Ann was told something else: {error}");
        let after: Vec<(i64, String, i64)> = sqlx::query_as(ledger).fetch_all(pool).await?;
        ensure!(after == entries, "Ann has changed the ledger from {entries:?} to {after:?}");
        say!("Ann wakes up and goes on with parcel {anns}. She is told StaleClaim, and her entry is rolled back.");

        let posted: Vec<i64> = entries.iter().map(|(parcel, ..)| *parcel).collect();
        ensure!(posted == (1..=PARCELS).collect::<Vec<_>>(), "these were posted: {posted:?}");
        say!("The ledger says the same: each of {PARCELS} parcels once, and nothing by Ann or Bob.");
        Ok(())
    }
}

const TABLES: [(&str, &str); 1] = [
    // Without a key on the parcel: nothing but the queue keeps it from being posted twice.
    (
        "atomically_worker_ledger",
        "parcel BIGINT NOT NULL, worker VARCHAR(20) NOT NULL, attempt BIGINT NOT NULL",
    ),
];

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
