//! Workers that claim jobs ahead of their handlers.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Priority, Queue};
use atomically::{Event, JobEvent, Pessimistic, TransactorExt as _};
use tokio::sync::{Barrier, Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{TestBackend, TestPool, eventually};
use crate::worker::{jobs_left, start, stopped, worker};
use crate::{ask, job, queue};

const CLAIMED: &str = "SELECT COUNT(*) FROM atomically_job WHERE claimed_at IS NOT NULL";

async fn enqueue_all<DB: TestBackend>(pool: &TestPool<DB>, queue: &Queue<DB>, jobs: &[NewJob]) {
    let db = Pessimistic::default().on(pool);
    db.run(async |tx| queue.enqueue_many(tx, jobs).await).await.expect("a commit");
}

/// A worker of two handlers that are fast until it has claimed jobs ahead. Then both hang.
struct HangingWorker {
    /// How many handlers hang.
    hanging: Arc<AtomicI64>,
    finish: Arc<Notify>,
    /// How many handlers have started.
    runs: Arc<AtomicI64>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl HangingWorker {
    fn start<DB: TestBackend>(queue: &Queue<DB>) -> Self {
        let is_ahead = Arc::new(AtomicBool::new(false));
        let seen = is_ahead.clone();
        let worker = worker(queue).0.handlers(2).observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::Claimed { jobs: 3.. }, .. } = event {
                seen.store(true, SeqCst);
            }
        });
        let (hanging, runs) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
        let finish = Arc::new(Notify::new());
        let (hung, counted, finished) = (hanging.clone(), runs.clone(), finish.clone());
        let (stop, running) = start(worker, move |_| {
            counted.fetch_add(1, SeqCst);
            let hangs = is_ahead.load(SeqCst) && hung.fetch_add(1, SeqCst) < 2;
            let finished = finished.clone();
            async move {
                if hangs {
                    finished.notified().await;
                }
                Ok(())
            }
        });
        Self { hanging, finish, runs, stop, running }
    }

    async fn hangs(&self) {
        eventually(2, async || self.hanging.load(SeqCst)).await;
    }
}

/// The handlers end together, in waves, as they do when they were claimed together and take equally long.
pub(crate) async fn slow_handlers_claim_no_job_ahead<DB: TestBackend>() {
    const HANDLERS: usize = 40;
    let (pool, queue) = queue::<DB>(4).await;
    let jobs: Vec<_> = (0..5 * HANDLERS as i64).map(job).collect();
    enqueue_all(&pool, &queue, &jobs).await;
    // Jobs that were claimed and whose handlers have not ended.
    let held = Arc::new(AtomicI64::new(0));
    let max_held = Arc::new(AtomicI64::new(0));
    let (claimed, max) = (held.clone(), max_held.clone());
    let worker = worker(&queue).0.handlers(HANDLERS).observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Claimed { jobs }, .. } = event {
            let jobs = i64::try_from(*jobs).expect("a number");
            max.fetch_max(claimed.fetch_add(jobs, SeqCst) + jobs, SeqCst);
        }
    });
    let wave = Arc::new(Barrier::new(HANDLERS));
    let (stop, running) = start(worker, move |_| {
        let (wave, held) = (wave.clone(), held.clone());
        async move {
            // This is what makes the handlers slow.
            sleep(Duration::from_millis(30)).await;
            wave.wait().await;
            held.fetch_sub(1, SeqCst);
            Ok(())
        }
    });
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(max_held.load(SeqCst), HANDLERS as i64, "no more jobs than handlers");
}

pub(crate) async fn an_idle_worker_gets_the_jobs_that_a_busy_one_has_claimed_ahead<DB: TestBackend>() {
    const JOBS: i64 = 1_000;
    let (pool, queue) = queue::<DB>(4).await;
    enqueue_all(&pool, &queue, &(0..JOBS).map(job).collect::<Vec<_>>()).await;
    let busy = HangingWorker::start(&queue);
    busy.hangs().await;
    let runs = Arc::new(AtomicI64::new(0));
    let counted = runs.clone();
    let (stop, running) = start(worker(&queue).0, move |_| {
        counted.fetch_add(1, SeqCst);
        async { Ok(()) }
    });
    eventually(2, async || jobs_left(&pool).await).await;
    busy.finish.notify_waiters();
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    stopped(busy.stop, busy.running).await;
    let [ours, theirs] = [&busy.runs, &runs].map(|runs| runs.load(SeqCst));
    assert!(theirs > 0 && ours + theirs == JOBS, "each job has run once: {ours} + {theirs}");
}

pub(crate) async fn jobs_claimed_ahead_start_in_the_order_of_their_priorities<DB: TestBackend>() {
    const JOBS: i64 = 900;
    let (pool, queue) = queue::<DB>(4).await;
    let priorities = [Priority::Low, Priority::High, Priority::Normal];
    let jobs: Vec<_> = (0..JOBS).map(|n| job(n).priority(priorities[n as usize % 3])).collect();
    enqueue_all(&pool, &queue, &jobs).await;
    let is_ahead = Arc::new(AtomicBool::new(false));
    let seen = is_ahead.clone();
    let worker = worker(&queue).0.handlers(1).observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Claimed { jobs: 2.. }, .. } = event {
            seen.store(true, SeqCst);
        }
    });
    let order = Arc::new(Mutex::new(Vec::new()));
    let started = order.clone();
    let (stop, running) = start(worker, move |claim: Arc<Claim<DB>>| {
        started.lock().expect("the order").push(claim.payload::<i64>().expect("a number"));
        async { Ok(()) }
    });
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    let of_priority = |i: i64| (0..JOBS).filter(move |n| n % 3 == i);
    let wanted: Vec<_> = of_priority(1).chain(of_priority(2)).chain(of_priority(0)).collect();
    assert_eq!(*order.lock().expect("the order"), wanted);
    assert!(is_ahead.load(SeqCst), "the worker has claimed ahead");
}

/// Jobs that the worker has claimed ahead start or are released. All others wait, as if never claimed.
pub(crate) async fn a_worker_that_claims_ahead_stops_when_its_queue_is_paused<DB: TestBackend>() {
    const JOBS: i64 = 4_000;
    let (pool, queue) = queue::<DB>(4).await;
    for first in [0, 1_000, 2_000, 3_000] {
        enqueue_all(&pool, &queue, &(first..first + 1_000).map(job).collect::<Vec<_>>()).await;
    }
    let worker = HangingWorker::start(&queue);
    worker.hangs().await;
    assert!(queue.pause().await.expect("paused"));
    worker.finish.notify_waiters();
    eventually(0, async || ask(&pool, CLAIMED).await).await;
    let left = jobs_left(&pool).await;
    assert!(left > 0, "a worker claims at most a thousand jobs ahead, and one claim was in flight");
    assert_eq!(worker.runs.load(SeqCst), JOBS - left, "no other job has started");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job WHERE attempts > 0").await, 0);
    assert!(queue.resume().await.expect("resumed"));
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(worker.stop, worker.running).await;
    assert_eq!(worker.runs.load(SeqCst), JOBS, "each job has run once");
}
