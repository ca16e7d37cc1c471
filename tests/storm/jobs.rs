//! Workers, and jobs that fail, panic, are slow or are snoozed.

use std::collections::{BTreeMap, BTreeSet};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::time::Duration;

use atomically::queue::{BoxError, Claim, NewJob, Queue, Worker};
use atomically::{Backoff, Error, Event, JobEvent, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use futures_util::TryStreamExt as _;
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;
use crate::server::StormServer;

pub(crate) const WORKERS: usize = 3;
const HANDLERS: usize = 5;

/// For each worker one connection per handler, one for claims and one for leases; and one for the producer.
pub(crate) const CONNECTIONS: u32 = (WORKERS * (HANDLERS + 2) + 1) as u32;

const LEASE: Duration = Duration::from_secs(3);

/// Longer than a lease.
const SLOW: Duration = Duration::from_secs(4);

/// Between two enqueued jobs.
const PAUSE: Duration = Duration::from_millis(40);

/// The time limit for the remaining jobs after the last outage.
const REST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Fails,
    Panics,
    /// Before the handler has returned its future.
    PanicsAtOnce,
    Slow,
    Snoozes,
    /// Returns without completing its job, so that the worker completes it.
    Returns,
    Quick,
}

impl Kind {
    pub(crate) const fn of(job: i64) -> Self {
        match job % 16 {
            0 => Self::Fails,
            1 => Self::Panics,
            2 => Self::PanicsAtOnce,
            3 => Self::Slow,
            4 => Self::Snoozes,
            5 => Self::Returns,
            _ => Self::Quick,
        }
    }

    /// Whether its jobs end up dead.
    pub(crate) const fn is_poison(self) -> bool {
        matches!(self, Self::Fails | Self::Panics | Self::PanicsAtOnce)
    }

    /// Whether its jobs leave a row in `effect`.
    pub(crate) const fn has_effect(self) -> bool {
        !self.is_poison() && !matches!(self, Self::Returns)
    }
}

/// The events that a worker reports.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) troubles: AtomicU64,
    /// When it completed its last job, in milliseconds since the start of the storm.
    last: AtomicU64,
}

impl Reported {
    fn count(&self, event: &Event<'_>, clock: &Clock) {
        let Event::Job { event, .. } = event else { return };
        if matches!(event, JobEvent::Completed { .. }) {
            self.last.store(clock.elapsed().as_millis() as u64, SeqCst);
        }
        let counter = match event {
            JobEvent::Completed { .. } => &self.completed,
            JobEvent::Failed { .. } => &self.failed,
            JobEvent::Dead { .. } => &self.dead,
            JobEvent::LeaseLost { .. } => &self.lost,
            JobEvent::Trouble { .. } => &self.troubles,
            _ => return,
        };
        counter.fetch_add(1, SeqCst);
    }
}

/// The results of the jobs.
#[derive(Debug)]
pub(crate) struct JobReport {
    /// Jobs that are certainly in the queue, and jobs whose commit is unknown.
    pub(crate) enqueued: BTreeSet<i64>,
    pub(crate) unknown: BTreeSet<i64>,
    pub(crate) reported: Vec<Arc<Reported>>,
    /// Workers that ended before they were stopped, or completed no job after the last outage.
    pub(crate) idle: Vec<usize>,
    /// Workers that did not end when they were stopped.
    pub(crate) stuck: usize,
    /// How long it took to empty the queue.
    pub(crate) rest: Option<Duration>,
    /// The number of each dead job, and its number of attempts.
    pub(crate) dead: BTreeMap<i64, u32>,
}

pub(crate) struct Jobs<DB: StormServer> {
    queue: Queue<DB>,
    reported: Vec<Arc<Reported>>,
    workers: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    stopped: Arc<AtomicBool>,
    producer: JoinHandle<[BTreeSet<i64>; 2]>,
}

impl<DB: StormServer> Jobs<DB> {
    pub(crate) async fn start(url: &str, clock: &Arc<Clock>) -> Self {
        silence_poison();
        let pool = PoolOptions::<DB>::new().max_connections(CONNECTIONS).connect(url).await.expect("a pool");
        let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(1));
        let queue = Queue::new("storm", &pool).expect("a name").lease(LEASE).backoff(backoff);
        queue.create_tables().await.expect("the tables");
        let db = Pessimistic::default().on(&pool);
        let (stop, shutdown) = watch::channel(false);
        let reported: Vec<_> = (0..WORKERS).map(|_| Arc::<Reported>::default()).collect();
        let workers = reported.iter().map(|reported| {
            let (counts, clock, mut shutdown, db) =
                (reported.clone(), clock.clone(), shutdown.clone(), db.clone());
            let note = move |event: &Event<'_>| counts.count(event, &clock);
            let worker = Worker::new(&queue).handlers(HANDLERS).observed_by(note);
            tokio::spawn(async move {
                let stopped = async move { drop(shutdown.wait_for(|stopped| *stopped).await) };
                worker.run(stopped, move |claim: Arc<Claim<DB>>| handle(claim, db.clone())).await;
            })
        });
        let workers = workers.collect();
        let stopped = Arc::new(AtomicBool::new(false));
        let producer = tokio::spawn(produce(db, queue.clone(), stopped.clone()));
        Self { queue, reported, workers, stop, stopped, producer }
    }

    /// Stops the producer, lets the workers complete the remaining jobs, and stops them.
    pub(crate) async fn stop(self, clock: &Clock) -> JobReport {
        self.stopped.store(true, SeqCst);
        let [enqueued, unknown] = self.producer.await.expect("the producer");
        let rest = until_empty(&self.queue).await;
        let calm = clock.outages().last().map_or(Duration::ZERO, |outage| outage.ended);
        let is_idle = |worker: usize| {
            let last = Duration::from_millis(self.reported[worker].last.load(SeqCst));
            self.workers[worker].is_finished() || last <= calm
        };
        let idle = (0..WORKERS).filter(|worker| is_idle(*worker)).collect();
        let _ = self.stop.send(true);
        let mut stuck = 0;
        for worker in self.workers {
            stuck += usize::from(!matches!(timeout(Duration::from_secs(30), worker).await, Ok(Ok(()))));
        }
        let dead = self.queue.dead(10_000).await.expect("the dead");
        let dead =
            dead.into_iter().map(|dead| (dead.json.parse().expect("a number"), dead.attempts)).collect();
        JobReport { enqueued, unknown, reported: self.reported, idle, stuck, rest, dead }
    }
}

/// How long it takes until only dead jobs are left, or `None` if that takes too long.
async fn until_empty<DB: StormServer>(queue: &Queue<DB>) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < REST {
        let counts = queue.counts().await.expect("the counts");
        if counts.due + counts.scheduled + counts.claimed == 0 {
            return Some(begun.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Enqueues jobs until it is stopped. Returns the enqueued jobs, and those whose commit is unknown.
async fn produce<DB: StormServer>(
    db: PoolTransactor<DB, Pessimistic>,
    queue: Queue<DB>,
    stopped: Arc<AtomicBool>,
) -> [BTreeSet<i64>; 2] {
    let [mut enqueued, mut unknown] = [BTreeSet::new(), BTreeSet::new()];
    let mut job = 0;
    while !stopped.load(SeqCst) {
        let new = || {
            let new = NewJob::new(&job).expect("a payload");
            if Kind::of(job).is_poison() { new.max_attempts(3) } else { new }
        };
        let done = if job % 2 == 0 {
            db.run(async |tx: &mut Tx<DB>| queue.enqueue(tx, new()).await).await
        } else {
            queue.enqueue_alone(new()).await
        };
        match done {
            Ok(_) => drop(enqueued.insert(job)),
            Err(error) if error.is_commit_unknown() => drop(unknown.insert(job)),
            // Nothing is stored, so the same job is enqueued again.
            Err(_) => continue,
        }
        job += 1;
        sleep(PAUSE).await;
    }
    [enqueued, unknown]
}

fn handle<DB: StormServer>(
    claim: Arc<Claim<DB>>,
    db: PoolTransactor<DB, Pessimistic>,
) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
    let job: i64 = claim.payload().expect("a number");
    let kind = Kind::of(job);
    assert!(kind != Kind::PanicsAtOnce, "{POISON}");
    async move {
        match kind {
            Kind::Fails => return Err(POISON.into()),
            Kind::Panics => panic!("{POISON}"),
            Kind::Slow => sleep(SLOW).await,
            Kind::Snoozes if claim.token() == 1 => {
                claim.snooze(Duration::from_millis(300)).await?;
                return Ok(());
            }
            Kind::Returns => return Ok(()),
            _ => {}
        }
        db.run(async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("INSERT INTO effect VALUES (?)"), &[job]).await?;
            claim.complete_in(tx).await
        })
        .await?;
        Ok(())
    }
}

const POISON: &str = "poison";

/// Intended panics are not printed.
fn silence_poison() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or_default();
            if text != POISON {
                others(panic);
            }
        }));
    });
}

/// The jobs that have left an effect, each as often as it has.
pub(crate) async fn effects<DB: StormServer>(pool: &Pool<DB>) -> Vec<i64> {
    let db = Pessimistic::default().on(pool);
    let effects = db.run(async |tx: &mut Tx<DB>| {
        let rows = DB::stream(tx, DB::sql("SELECT job FROM effect ORDER BY job"));
        Ok::<Vec<i64>, Error>(rows.try_collect().await?)
    });
    effects.await.expect("the effects")
}
