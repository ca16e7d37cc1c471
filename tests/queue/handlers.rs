//! Handlers that misbehave: they panic, hang, or roll back what they completed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::queue::{Claim, FindingKind, Retry, Wake, Worker};
use atomically::{Backoff, Error, Event, JobEvent, Pessimistic, TransactorExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::support::{TestBackend, eventually};
use crate::worker::{LIMIT, RENEWED, jobs_left, noted, start, stopped, worker};
use crate::{enqueue, job, queue, take_over};

pub(crate) async fn a_panic_before_the_future_exists_fails_its_job_only<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let queue = queue.max_attempts(2).backoff(Backoff::none());
    let innocent = enqueue(&pool, &queue, job(2)).await;
    let (worker, events) = worker(&queue);
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, finished) = (begun.clone(), finish.clone());
    let (stop, stopping) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let handler = |claim: Arc<Claim<DB>>| {
            let payload: i64 = claim.payload().expect("a payload");
            assert_ne!(payload, 1, "poison");
            let (says, finished) = (says.clone(), finished.clone());
            async move {
                says.notify_one();
                finished.notified().await;
                Ok(())
            }
        };
        worker.run(stopping, handler).await;
    });
    timeout(LIMIT, begun.notified()).await.expect("it begins");
    let poison = enqueue(&pool, &queue, job(1)).await;
    // The server stores the death before the worker reports it.
    eventually(2, async || noted(&events).len()).await;
    finish.notify_one();
    eventually(1, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    let dead = queue.dead(10).await.expect("the dead").remove(0);
    let error = dead.last_error.expect("an error");
    assert_eq!((dead.id, dead.attempts), (poison, 2));
    assert!(error.starts_with("panicked: ") && error.contains("poison"), "{error}");
    let noted = noted(&events);
    assert_eq!(noted.len(), 3, "{noted:?}");
    assert!(noted[0].starts_with(&format!("failed {poison}: panicked")), "{noted:?}");
    assert!(noted[1].starts_with(&format!("dead {poison}: panicked")), "{noted:?}");
    assert_eq!(noted[2], format!("completed {innocent}"), "the other job was left alone");
}

/// Panics alternately when it is called and when it is awaited.
#[derive(Default)]
struct BadWake(AtomicU32);

impl Wake for BadWake {
    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        assert!(self.0.fetch_add(1, SeqCst) % 2 == 1, "a wake that is not made");
        Box::pin(async { panic!("a wake that does not wake") })
    }
}

pub(crate) async fn a_panic_of_a_wake_ends_no_worker<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let (worker, events) = worker(&queue);
    let wake = Arc::new(BadWake::default());
    let (stop, running) = start(worker.wake(wake.clone()), |_| async { Ok(()) });
    eventually(true, async || wake.0.load(SeqCst) > 4).await;
    enqueue(&pool, &queue, job(1)).await;
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(noted(&events).len(), 1, "{:?}", noted(&events));
}

/// A panic is not a shutdown signal.
pub(crate) async fn a_panic_of_the_shutdown_signal_ends_no_worker<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let (worker, _) = worker(&queue);
    let (signal, signaled) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let shutdown = async move {
            signaled.await.expect("the signal");
            panic!("a signal handler's");
        };
        worker.run(shutdown, |_| async { Ok(()) }).await;
    });
    enqueue(&pool, &queue, job(1)).await;
    eventually(0, async || jobs_left(&pool).await).await;
    signal.send(()).expect("it listens");
    tokio::time::sleep(Duration::from_millis(100)).await;
    enqueue(&pool, &queue, job(2)).await;
    eventually(0, async || jobs_left(&pool).await).await;
    assert!(!running.is_finished());
    running.abort();
}

/// An error whose text is a panic.
#[derive(Debug)]
struct BadError;

impl std::fmt::Display for BadError {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error without words")
    }
}

impl std::error::Error for BadError {}

#[derive(Debug)]
struct Sending(std::io::Error);

impl std::fmt::Display for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sending the receipt")
    }
}

impl std::error::Error for Sending {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

pub(crate) async fn the_last_error_of_a_job_has_its_causes<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let queue = queue.max_attempts(1);
    let refused = enqueue(&pool, &queue, job(1)).await;
    let speechless = enqueue(&pool, &queue, job(2)).await;
    let with_context = enqueue(&pool, &queue, job(3)).await;
    let (worker, _) = worker(&queue);
    let (stop, stopping) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let handler = |claim: Arc<Claim<DB>>| async move {
            let refused = std::io::Error::other("connection refused");
            match claim.payload::<i64>()? {
                1 => Err(Sending(refused).into()),
                2 => Err(BadError.into()),
                _ => {
                    let error = anyhow::Error::new(refused).context("sending the receipt");
                    claim.fail(error, Retry::Backoff).await?;
                    Ok(())
                }
            }
        };
        worker.run(stopping, handler).await;
    });
    eventually(3, async || queue.counts().await.expect("the counts").dead).await;
    stopped(stop, running).await;
    let mut dead = queue.dead(10).await.expect("the dead");
    dead.sort_by_key(|dead| dead.id);
    let dead: Vec<_> = dead.into_iter().map(|dead| (dead.id, dead.last_error.unwrap_or_default())).collect();
    let chain = "sending the receipt: connection refused".to_owned();
    let panicked = "panicked: an error without words".to_owned();
    assert_eq!(dead, [(refused, chain.clone()), (speechless, panicked), (with_context, chain)]);
}

pub(crate) async fn a_panic_of_an_observer_ends_no_worker<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let observed = Arc::new(AtomicU32::new(0));
    let counted = observed.clone();
    let (worker, events) = worker(&queue);
    let worker = worker.observed_by(move |event: &Event<'_>| {
        if let Event::Job { event: JobEvent::Claimed { .. } | JobEvent::Completed { .. }, .. } = event {
            counted.fetch_add(1, SeqCst);
            panic!("an observer's");
        }
    });
    let (stop, running) = start(worker.handlers(1), |_| async { Ok(()) });
    for n in 0..3 {
        enqueue(&pool, &queue, job(n)).await;
        eventually(0, async || jobs_left(&pool).await).await;
    }
    stopped(stop, running).await;
    assert_eq!(observed.load(SeqCst), 6);
    assert_eq!(noted(&events).len(), 3, "the other observer gets its events: {:?}", noted(&events));
}

/// The completion is rolled back with its transaction, so the claim can be lost like any other.
pub(crate) async fn a_lost_lease_is_noticed_after_a_completion_that_rolled_back<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let (worker, events) = worker(&queue.clone().lease(RENEWED));
    let db = Pessimistic::default().on(&pool);
    let rolled_back = Arc::new(Notify::new());
    let says = rolled_back.clone();
    let (stop, running) = start(worker.handlers(1), move |claim: Arc<Claim<DB>>| {
        let (db, says) = (db.clone(), says.clone());
        async move {
            let error = db
                .run(async |tx| {
                    claim.complete_in(tx).await?;
                    Err::<(), Error>(sqlx::Error::RowNotFound.into())
                })
                .await;
            error.expect_err("its own error");
            says.notify_one();
            std::future::pending().await
        }
    });
    timeout(LIMIT, rolled_back.notified()).await.expect("it begins");
    let heir = take_over(&pool, &queue).await;
    assert_eq!((heir.id(), heir.token()), (id, 2));
    eventually(vec![format!("lost {id}")], async || noted(&events)).await;
    heir.complete().await.expect("it is the heir's");
    stopped(stop, running).await;
}

pub(crate) async fn a_handler_that_hangs_times_out<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let queue = queue.max_attempts(2).backoff(Backoff::none());
    let (worker, events) = worker(&queue);
    let running_jobs = Arc::new(AtomicI32::new(0));
    let counted = running_jobs.clone();
    let worker =
        worker.handlers(1).job_timeout(Duration::from_secs(1)).observed_by(move |event: &Event<'_>| {
            match event {
                Event::Job { event: JobEvent::Started { .. }, .. } => counted.fetch_add(1, SeqCst),
                Event::Job { event: JobEvent::Ended { .. }, .. } => counted.fetch_sub(1, SeqCst),
                _ => 0,
            };
        });
    let hung = enqueue(&pool, &queue, job(1)).await;
    let (stop, running) = start(worker, |claim| async move {
        if claim.payload::<i64>()? == 1 { std::future::pending().await } else { Ok(()) }
    });
    eventually(1, async || running_jobs.load(SeqCst)).await;
    let sound = enqueue(&pool, &queue, job(2)).await;
    eventually(1, async || jobs_left(&pool).await).await;
    eventually(1, async || queue.counts().await.expect("the counts").dead).await;
    stopped(stop, running).await;
    assert_eq!(running_jobs.load(SeqCst), 0, "each that began has ended");
    let noted = noted(&events);
    let why = "timed out: the handler ran for longer than 1s";
    assert!(noted.contains(&format!("failed {hung}: {why}")), "{noted:?}");
    assert!(noted.contains(&format!("dead {hung}: {why}")), "{noted:?}");
    assert!(noted.contains(&format!("completed {sound}")), "{noted:?}");
}

pub(crate) async fn a_worker_reports_a_pool_that_is_too_small<DB: TestBackend>() {
    let (_pool, queue) = queue::<DB>(4).await;
    let warnings = async |handlers| {
        let warned = Arc::new(AtomicU32::new(0));
        let counted = warned.clone();
        let worker = Worker::new(&queue).handlers(handlers).observed_by(move |event: &Event<'_>| {
            if let Event::Job { event: JobEvent::PoolTooSmall { connections: 4, .. }, .. } = event {
                counted.fetch_add(1, SeqCst);
            }
        });
        worker.run(std::future::ready(()), |_| async { Ok(()) }).await;
        let findings = worker.doctor().await.expect("findings");
        let found = findings.iter().filter(|finding| finding.kind == FindingKind::Pool).count();
        (warned.load(SeqCst), found)
    };
    assert_eq!(warnings(4).await, (1, 1));
    assert_eq!(warnings(3).await, (0, 0));
}
