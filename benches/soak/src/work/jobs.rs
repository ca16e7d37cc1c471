//! Jobs, enqueued in transactions and alone, and the workers that do them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use atomically::queue::{BoxError, Claim, NewJob, Queue, Retry, Worker};
use atomically::{Backoff, Error, Event, JobEvent, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sqlx::Pool;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::patient;
use crate::database::SoakDatabase;

const WORKERS: usize = 2;
const HANDLERS: usize = 6;

/// For each worker one connection per handler and two more, and some for the callers that enqueue.
pub(crate) const CONNECTIONS: u32 = (WORKERS * (HANDLERS + 2) + 8) as u32;

/// After the last fault, all jobs have to be done within this time.
const REST: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(crate) struct JobsReport {
    /// How long it took to empty the queue; `None` if it did not become empty.
    pub(crate) rest: Option<Duration>,
    pub(crate) dead: u64,
    pub(crate) completed: u64,
    pub(crate) leases_lost: u64,
}

pub(crate) struct Jobs<DB: SoakDatabase> {
    queue: Queue<DB>,
    db: PoolTransactor<DB, Pessimistic>,
    stop: watch::Sender<bool>,
    workers: Mutex<JoinSet<()>>,
    reported: Arc<Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    completed: AtomicU64,
    leases_lost: AtomicU64,
}

impl<DB: SoakDatabase> Jobs<DB> {
    pub(crate) fn start(pool: &Pool<DB>) -> Result<Self> {
        let backoff = Backoff::exponential(Duration::from_millis(50), Duration::from_secs(1));
        let queue = Queue::new("soak", pool)?.lease(Duration::from_secs(3)).backoff(backoff);
        // A job that is hit by faults again and again must not die of them.
        let queue = queue.max_attempts(1_000);
        let db = Pessimistic::default().on(pool);
        let (stop, stopped) = watch::channel(false);
        let reported = Arc::<Reported>::default();
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (reported, effects, mut stopped) = (reported.clone(), patient(pool), stopped.clone());
            let worker = Worker::new(&queue)
                .handlers(HANDLERS)
                .observed_by(move |event: &Event<'_>| reported.note(event));
            workers.spawn(async move {
                let stopped = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                worker.run(stopped, move |claim: Arc<Claim<DB>>| work(claim, effects.clone())).await;
            });
        }
        Ok(Self { queue, db, stop, workers: Mutex::new(workers), reported })
    }

    pub(crate) async fn enqueue(&self, op: i64, random: &mut StdRng) -> Result<(), Error> {
        let job = NewJob::new(&op)?;
        if random.random_bool(0.5) {
            return self.queue.enqueue_alone(job).await.map(drop);
        }
        self.db.run(async |tx: &mut Tx<DB>| self.queue.enqueue(tx, job.clone()).await.map(drop)).await
    }

    /// Waits until the queue is empty, and stops the workers.
    pub(crate) async fn stop(&self) -> JobsReport {
        let rest = self.until_empty().await;
        self.stop.send_replace(true);
        std::mem::take(&mut *self.workers.lock().await).join_all().await;
        let dead = self.queue.counts().await.map_or(u64::MAX, |counts| counts.dead);
        let Reported { completed, leases_lost } = &*self.reported;
        JobsReport { rest, dead, completed: completed.load(Relaxed), leases_lost: leases_lost.load(Relaxed) }
    }

    async fn until_empty(&self) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < REST {
            if let Ok(counts) = self.queue.counts().await
                && counts.due + counts.scheduled + counts.claimed == 0
            {
                return Some(begun.elapsed());
            }
            sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

impl Reported {
    fn note(&self, event: &Event<'_>) {
        let Event::Job { event, .. } = event else { return };
        match event {
            JobEvent::Completed { .. } => _ = self.completed.fetch_add(1, Relaxed),
            JobEvent::LeaseLost { .. } => _ = self.leases_lost.fetch_add(1, Relaxed),
            _ => {}
        }
    }
}

/// One job in eight fails at its first attempt.
async fn work<DB: SoakDatabase>(
    claim: Arc<Claim<DB>>,
    db: PoolTransactor<DB, Pessimistic>,
) -> Result<(), BoxError> {
    let op: i64 = claim.payload()?;
    if op % 8 == 0 && claim.attempt() == 1 {
        claim.fail("not yet", Retry::After(Duration::from_millis(50))).await?;
        return Ok(());
    }
    db.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[op]).await?;
        claim.complete_in(tx).await
    })
    .await?;
    Ok(())
}
