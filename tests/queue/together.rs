//! Workers whose handlers end at the same time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::queue::{Claim, Queue, Retry};
use atomically::{Error, Event, JobEvent};
use sqlx::pool::PoolOptions;
use tokio::sync::{Barrier, Semaphore};
use tokio::time::timeout;

use crate::resend::{COMPLETION, once, through};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, TestPool, eventually};
use crate::worker::{LIMIT, LONG, jobs_left, noted, start, stopped, worker};
use crate::{ask, claim_one, enqueue, job, queue};

/// Returns a barrier at which this many handlers and the test meet, and a second one at which they do so
/// before the handlers end.
pub(crate) fn barriers(handlers: usize) -> [Arc<Barrier>; 2] {
    std::array::from_fn(|_| Arc::new(Barrier::new(handlers + 1)))
}

type Ending = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Returns a handler whose runs of the jobs with numbers below `jobs` meet at the first barrier, and at the
/// second one before they end.
pub(crate) fn handler<DB: TestBackend>(
    [started, finish]: &[Arc<Barrier>; 2],
    jobs: i64,
) -> impl Fn(Arc<Claim<DB>>) -> Ending + use<DB> {
    let (started, finish) = (started.clone(), finish.clone());
    move |claim| {
        let (started, finish) = (started.clone(), finish.clone());
        Box::pin(async move {
            if claim.payload::<i64>()? < jobs {
                started.wait().await;
                finish.wait().await;
            }
            Ok(())
        })
    }
}

async fn enqueue_many<DB: TestBackend>(pool: &TestPool<DB>, queue: &Queue<DB>, jobs: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for n in 0..jobs {
        ids.push(enqueue(pool, queue, job(n as i64)).await);
    }
    ids
}

pub(crate) async fn a_stale_claim_is_reported_to_its_own_handler_only<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    // No renewal notices the loss while the handlers run.
    let queue = queue.lease(LONG);
    for _ in 0..3 {
        let ids = enqueue_many(&pool, &queue, 6).await;
        let (worker, events) = worker(&queue);
        let barriers = barriers(6);
        let [started, finish] = &barriers;
        let (stop, running) = start(worker.handlers(6), handler(&barriers, 6));
        started.wait().await;
        let taken = DB::sql("UPDATE atomically_job SET token = token + 1 WHERE id = ?");
        DB::pool_execute(&pool, taken, &[ids[2]]).await.expect("taken over");
        finish.wait().await;
        eventually(6, async || noted(&events).len()).await;
        stopped(stop, running).await;
        let mut noted = noted(&events);
        noted.sort();
        let of_others = ids.iter().filter(|id| **id != ids[2]).map(|id| format!("completed {id}"));
        let mut wanted: Vec<_> = of_others.chain([format!("lost {}", ids[2])]).collect();
        wanted.sort();
        assert_eq!(noted, wanted);
        assert_eq!(ask(&pool, "SELECT id FROM atomically_job").await, ids[2]);
        DB::pool_execute(&pool, DB::sql("DELETE FROM atomically_job"), &[]).await.expect("cleared away");
    }
}

pub(crate) async fn a_job_that_cannot_be_deleted_does_not_keep_the_others<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let ids = enqueue_many(&pool, &queue, 6).await;
    for sql in [
        "CREATE TABLE keeper (job BIGINT NOT NULL, FOREIGN KEY (job) REFERENCES atomically_job (id))"
            .to_owned(),
        format!("INSERT INTO keeper VALUES ({})", ids[2]),
    ] {
        DB::pool_execute(&pool, DB::sql(&sql), &[]).await.expect("a table");
    }
    let (worker, events) = worker(&queue);
    let barriers = barriers(6);
    let [started, finish] = &barriers;
    let (stop, running) = start(worker.handlers(6), handler(&barriers, 6));
    started.wait().await;
    finish.wait().await;
    eventually(6, async || noted(&events).len()).await;
    stopped(stop, running).await;
    let noted = noted(&events);
    assert_eq!(noted.iter().filter(|event| event.starts_with("completed")).count(), 5, "{noted:?}");
    assert_eq!(noted.iter().filter(|event| event.starts_with("trouble")).count(), 1, "{noted:?}");
    assert_eq!(ask(&pool, "SELECT id FROM atomically_job").await, ids[2]);
}

/// The signal arrives while all handlers are about to end.
pub(crate) async fn jobs_whose_handlers_have_ended_are_completed_at_shutdown<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    enqueue_many(&pool, &queue, 20).await;
    let (worker, events) = worker(&queue);
    let barriers = barriers(20);
    let [started, finish] = &barriers;
    let (stop, running) = start(worker.handlers(20), handler(&barriers, 20));
    started.wait().await;
    stop.send(()).expect("it listens");
    finish.wait().await;
    running.await.expect("without a panic");
    assert_eq!(jobs_left(&pool).await, 0);
    let noted = noted(&events);
    assert!(noted.len() == 20 && noted.iter().all(|event| event.starts_with("completed")), "{noted:?}");
}

/// Fast handlers make the worker claim ahead; then all handlers hang.
pub(crate) async fn jobs_claimed_ahead_are_released_when_all_handlers_are_busy<DB: TestBackend>() {
    const JOBS: i64 = 1_000;
    let (pool, queue) = queue::<DB>(4).await;
    let jobs: Vec<_> = (0..JOBS).map(job).collect();
    let db = atomically::Pessimistic::default().on(&pool);
    let due = "CREATE TABLE due AS SELECT id, due_at FROM atomically_job";
    atomically::TransactorExt::run(&db, async |tx| queue.enqueue_many(tx, &jobs).await)
        .await
        .expect("a commit");
    DB::pool_execute(&pool, DB::sql(due), &[]).await.expect("a table");
    let is_ahead = Arc::new(AtomicBool::new(false));
    let seen = is_ahead.clone();
    let (worker, events) = worker(&queue);
    let worker = worker.handlers(2).observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Claimed { jobs: 3.. }, .. } = event {
            seen.store(true, SeqCst);
        }
    });
    let (busy, finish) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
    let (hanging, finished, runs) = (busy.clone(), finish.clone(), Arc::new(AtomicU32::new(0)));
    let counted = runs.clone();
    let (stop, running) = start(worker, move |_| {
        let hangs = is_ahead.load(SeqCst) && hanging.fetch_add(1, SeqCst) < 2;
        let finished = finished.clone();
        counted.fetch_add(1, SeqCst);
        async move {
            if hangs {
                let _permit = finished.acquire().await;
            }
            Ok(())
        }
    });
    eventually(2, async || busy.load(SeqCst)).await;
    let claimed = "SELECT COUNT(*) FROM atomically_job WHERE claimed_at IS NOT NULL OR attempts > 0";
    eventually(2, async || ask(&pool, claimed).await).await;
    let moved = "SELECT COUNT(*) FROM atomically_job JOIN due ON due.id = atomically_job.id
                 WHERE claimed_at IS NULL AND atomically_job.due_at <> due.due_at";
    assert_eq!(ask(&pool, moved).await, 0, "released jobs have kept their places");
    // Some were claimed ahead. The worker reports a release after the server has stored it.
    eventually(true, async || noted(&events).iter().any(|event| event.starts_with("released"))).await;
    finish.add_permits(2);
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(i64::from(runs.load(SeqCst)), JOBS, "each job has run once");
}

/// Completions of jobs whose handlers have ended occupy no handler, and handlers that run occupy one each.
pub(crate) async fn jobs_claimed_ahead_are_released_at_shutdown<DB: TestBackend>() {
    const JOBS: usize = 1_000;
    let (pool, queue) = queue::<DB>(4).await;
    let jobs: Vec<_> = (0..JOBS as i64).map(job).collect();
    let db = atomically::Pessimistic::default().on(&pool);
    atomically::TransactorExt::run(&db, async |tx| queue.enqueue_many(tx, &jobs).await)
        .await
        .expect("a commit");
    let is_ahead = Arc::new(AtomicBool::new(false));
    let seen = is_ahead.clone();
    let (worker, events) = worker(&queue);
    let worker = worker.handlers(2).observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Claimed { jobs: 3.. }, .. } = event {
            seen.store(true, SeqCst);
        }
    });
    let [running_now, most, hanging] = [(); 3].map(|()| Arc::new(AtomicU32::new(0)));
    let finish = Arc::new(Semaphore::new(0));
    let (counted, max, hangs, finished) = (running_now, most.clone(), hanging.clone(), finish.clone());
    let (stop, running) = start(worker, move |_| {
        let (counted, max, hangs) = (counted.clone(), max.clone(), hangs.clone());
        let (is_ahead, finished) = (is_ahead.clone(), finished.clone());
        async move {
            max.fetch_max(counted.fetch_add(1, SeqCst) + 1, SeqCst);
            if is_ahead.load(SeqCst) {
                hangs.fetch_add(1, SeqCst);
                let _permit = finished.acquire().await;
            }
            counted.fetch_sub(1, SeqCst);
            Ok(())
        }
    });
    eventually(2, async || hanging.load(SeqCst)).await;
    stop.send(()).expect("it listens");
    let claimed = "SELECT COUNT(*) FROM atomically_job WHERE claimed_at IS NOT NULL OR attempts > 0";
    eventually(2, async || ask(&pool, claimed).await).await;
    finish.add_permits(2);
    timeout(LIMIT, running).await.expect("it stops").expect("without a panic");
    assert_eq!(ask(&pool, claimed).await, 0, "every other job was released, and no attempt counts");
    let completed = noted(&events).iter().filter(|event| event.starts_with("completed")).count();
    assert_eq!(completed + jobs_left(&pool).await as usize, JOBS);
    assert_eq!((most.load(SeqCst), hanging.load(SeqCst)), (2, 2), "no more handlers than the worker has");
}

pub(crate) async fn handlers_that_end_together_share_a_commit<DB: TestBackend>() {
    const JOBS: usize = 60;
    let (pool, queue) = queue::<DB>(4).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await;
    enqueue_many(&pool, &queue, JOBS).await;
    let (worker, events) = worker(&distant);
    let barriers = barriers(JOBS);
    let [started, finish] = &barriers;
    let (stop, running) =
        start(worker.handlers(JOBS).poll_every(Duration::from_secs(60)), handler(&barriers, JOBS as i64));
    started.wait().await;
    let before = proxy.requests();
    finish.wait().await;
    eventually(JOBS, async || noted(&events).len()).await;
    let requests = proxy.requests() - before;
    stopped(stop, running).await;
    assert!(requests < JOBS as u32, "{requests} requests for {JOBS} jobs");
    assert_eq!(jobs_left(&pool).await, 0);
}

/// Whether the statement was executed or not, each job is completed, and no handler runs again.
pub(crate) async fn a_lost_commit_of_several_completions_runs_no_handler_again<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await.lease(LONG);
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        once(&proxy, COMPLETION, fault);
        enqueue_many(&pool, &queue, 8).await;
        let (worker, events) = worker(&distant);
        let barriers = barriers(8);
        let [started, finish] = &barriers;
        let (handler, runs) = (handler(&barriers, 8), Arc::new(AtomicU32::new(0)));
        let counted = runs.clone();
        let (stop, running) = start(worker.handlers(8), move |claim| {
            counted.fetch_add(1, SeqCst);
            handler(claim)
        });
        started.wait().await;
        finish.wait().await;
        eventually(8, async || noted(&events).len()).await;
        stopped(stop, running).await;
        let noted = noted(&events);
        assert!(noted.iter().all(|event| event.starts_with("completed")), "{fault:?}: {noted:?}");
        assert_eq!((runs.load(SeqCst), jobs_left(&pool).await), (8, 0), "{fault:?}");
    }
}

/// After the first call, which may have to prepare its statement. The pool's own pings are not counted.
pub(crate) async fn changes_of_a_claimed_job_take_one_round_trip<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = PoolOptions::<DB>::new().max_connections(1).test_before_acquire(false);
    let distant = distant.connect(&proxy.url(&pool.url)).await.expect("a pool through the proxy");
    let distant = Queue::new("jobs", &distant).expect("a name").reuse_connections().persistent(true);
    let mut fewest = [u32::MAX; 4];
    for _ in 0..20 {
        enqueue(&pool, &queue, job(1)).await;
        for (i, fewest) in fewest.iter_mut().enumerate() {
            let _ = distant.enqueue_alone(job(2)).await.expect("a statement that is kept");
            let claim: Claim<DB> = claim_one(&distant).await;
            let before = proxy.requests();
            match i {
                0 => claim.extend().await.expect("extended"),
                1 => claim.release().await.expect("released"),
                2 => drop(claim.fail("no", Retry::After(Duration::ZERO)).await.expect("failed")),
                _ => claim.complete().await.expect("complete"),
            }
            *fewest = (*fewest).min(proxy.requests() - before);
            DB::pool_execute(&pool, DB::sql("DELETE FROM atomically_job"), &[]).await.expect("cleared away");
        }
    }
    // MariaDB is first asked whether the session commits its lone statements, unless that is known.
    let most = if DB::NAME == "PostgreSQL" { 1 } else { 2 };
    let are_few = fewest.iter().all(|requests| (1..=most).contains(requests));
    assert!(are_few, "to extend, release, fail and complete: {fewest:?}");
}
