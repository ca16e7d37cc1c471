//! Workers.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, PgWake, Queue, Retry, Worker};
use atomically::{Backoff, Error, Event, JobEvent, Pessimistic, TransactorExt as _};
use sqlx::{Pool, Postgres};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{TestBackend, eventually};
use crate::{ask, claim_one, effects, enqueue, job, queue, take_over, write_ledger};

/// Far longer than any step takes, so that a test fails instead of hanging.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A lease that is renewed soon, and that does not expire before on a busy machine.
pub(crate) const RENEWED: Duration = Duration::from_secs(12);

pub(crate) type Events = Arc<Mutex<Vec<String>>>;

/// Returns a worker with a short poll interval and a long grace period, and the events that it reports.
pub(crate) fn worker<DB: TestBackend>(queue: &Queue<DB>) -> (Worker<DB>, Events) {
    let events = Events::default();
    let noted = events.clone();
    let note = move |event: &Event<'_>| {
        let Event::Job { queue: "jobs", event } = event else {
            panic!("not an event of this queue: {event:?}")
        };
        let text = match event {
            JobEvent::Claimed { .. }
            | JobEvent::Depth { .. }
            | JobEvent::Started { .. }
            | JobEvent::Ended { .. }
            | JobEvent::Heartbeat { .. }
            | JobEvent::Stopped { .. }
            | JobEvent::PoolTooSmall { .. } => return,
            JobEvent::Completed { id } => format!("completed {id}"),
            JobEvent::Failed { id, error } => format!("failed {id}: {error}"),
            JobEvent::Dead { id, error } => format!("dead {id}: {error}"),
            JobEvent::LeaseLost { id } => format!("lost {id}"),
            JobEvent::Released { id } => format!("released {id}"),
            JobEvent::Trouble { error } => format!("trouble: {error}"),
            other => format!("{other:?}"),
        };
        noted.lock().expect("the events").push(text);
    };
    let worker = Worker::new(queue).poll_every(Duration::from_millis(20)).grace(LONG).observed_by(note);
    (worker, events)
}

pub(crate) fn noted(events: &Events) -> Vec<String> {
    events.lock().expect("the events").clone()
}

/// Runs a worker in the background until it is shut down.
pub(crate) fn start<DB, H, F>(worker: Worker<DB>, handler: H) -> (oneshot::Sender<()>, JoinHandle<()>)
where
    DB: TestBackend,
    H: Fn(Arc<Claim<DB>>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let handler = |claim| {
            let work = handler(claim);
            async move { Ok(work.await?) }
        };
        worker.run(stopped, handler).await;
    });
    (stop, running)
}

pub(crate) async fn stopped(stop: oneshot::Sender<()>, running: JoinHandle<()>) {
    let _ = stop.send(());
    timeout(LIMIT, running).await.expect("it stops").expect("without a panic");
}

pub(crate) async fn jobs_left<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    ask(pool, "SELECT COUNT(*) FROM atomically_job").await
}

pub(crate) async fn the_worker_completes_jobs_that_their_handlers_did_not<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let queue = queue.backoff(Backoff::none());
    for n in 0..40 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let (worker, events) = worker(&queue);
    let db = Pessimistic::default().on(&pool);
    let (stop, running) = start(worker, move |claim| {
        let db = db.clone();
        async move {
            let complete = claim.payload::<i64>()? % 2 == 0;
            db.run(async |tx| {
                write_ledger(tx, &claim).await?;
                if complete { claim.complete_in(tx).await } else { Ok(()) }
            })
            .await?;
            // An error after the completion does not change the outcome.
            if complete && claim.payload::<i64>()? % 4 == 0 {
                Err(sqlx::Error::RowNotFound.into())
            } else {
                Ok(())
            }
        }
    });
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(effects(&pool).await, 40);
    let noted = noted(&events);
    assert_eq!(noted.len(), 40, "{noted:?}");
    assert!(noted.iter().all(|event| event.starts_with("completed")), "{noted:?}");
}

pub(crate) async fn a_job_that_always_fails_is_dead_in_the_end<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let queue = queue.max_attempts(3).backoff(Backoff::none());
    let failing = enqueue(&pool, &queue, job(1)).await;
    let panicking = enqueue(&pool, &queue, job(2)).await;
    let given_up = enqueue(&pool, &queue, job(3)).await;
    let sound = enqueue(&pool, &queue, job(4)).await;
    let put_off = enqueue(&pool, &queue, job(5)).await;
    let given_back = enqueue(&pool, &queue, job(6)).await;
    let (worker, events) = worker(&queue);
    let (stop, running) = start(worker, |claim| async move {
        match claim.payload::<i64>()? {
            1 => Err(sqlx::Error::Configuration(format!("attempt {}", claim.attempt()).into()).into()),
            2 => panic!("attempt {}", claim.attempt()),
            3 => claim.fail("never", Retry::Never).await.map(drop),
            5 if claim.attempt() == 1 => claim.fail("later", Retry::After(Duration::ZERO)).await.map(drop),
            6 if claim.token() == 1 => claim.release().await,
            _ => Ok(()),
        }
    });
    eventually(3, async || queue.counts().await.expect("the counts").dead).await;
    eventually(3, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    let mut dead = queue.dead(10).await.expect("the dead");
    dead.sort_by_key(|dead| dead.id);
    let dead: Vec<_> =
        dead.iter().map(|dead| (dead.id, dead.attempts, dead.last_error.as_deref().unwrap_or(""))).collect();
    let wanted = [
        (failing, 3, "error with configuration: attempt 3"),
        (panicking, 3, "panicked: attempt 3"),
        (given_up, 1, "never"),
    ];
    assert_eq!(dead, wanted);
    let noted = noted(&events);
    let of = |id: i64| {
        let what = noted.iter().filter(|event| event.split([' ', ':']).nth(1) == Some(&id.to_string()));
        what.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(sound), [format!("completed {sound}")]);
    // These jobs were ended by the handler itself.
    assert_eq!(of(given_up), [format!("dead {given_up}: never")]);
    assert_eq!(of(put_off), [format!("failed {put_off}: later"), format!("completed {put_off}")]);
    assert_eq!(of(given_back), [format!("released {given_back}"), format!("completed {given_back}")]);
    assert!(noted.contains(&format!("failed {panicking}: panicked: attempt 2")), "{noted:?}");
    assert!(noted.contains(&format!("dead {panicking}: panicked: attempt 3")), "{noted:?}");
}

pub(crate) async fn leases_are_extended<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    enqueue(&pool, &queue, job(1)).await;
    let (worker, events) = worker(&queue.clone().lease(RENEWED));
    let finish = Arc::new(Notify::new());
    let finished = finish.clone();
    let (stop, running) = start(worker.handlers(1), move |_| {
        let finished = finished.clone();
        async move {
            finished.notified().await;
            Ok(())
        }
    });
    eventually(1, async || ask(&pool, "SELECT COUNT(*) FROM atomically_job_lease").await).await;
    DB::pool_execute(&pool, DB::sql("UPDATE atomically_job SET due_at = 1"), &[]).await.expect("it lapses");
    assert!(queue.claim(1).await.expect("a claim").is_empty(), "the lease was extended");
    finish.notify_one();
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(noted(&events).len(), 1, "{:?}", noted(&events));
}

/// Records that it was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Starts a worker with one handler that never returns, and waits until the handler has started.
async fn begun<DB: TestBackend>(
    worker: Worker<DB>,
    id: i64,
) -> (oneshot::Sender<()>, JoinHandle<()>, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(Notify::new());
    let (at_work, says) = (dropped.clone(), begun.clone());
    let (stop, running) = start(worker.handlers(1), move |claim| {
        let (dropped, says) = (Dropped(at_work.clone()), says.clone());
        async move {
            assert_eq!(claim.id(), id);
            let _dropped = dropped;
            says.notify_one();
            std::future::pending().await
        }
    });
    timeout(LIMIT, begun.notified()).await.expect("it begins");
    (stop, running, dropped)
}

pub(crate) async fn a_lost_lease_cancels_its_handler<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let (worker, events) = worker(&queue.clone().lease(RENEWED));
    let (stop, running, dropped) = begun(worker, id).await;
    let heir = take_over(&pool, &queue).await;
    assert_eq!(heir.token(), 2);
    eventually(vec![format!("lost {id}")], async || noted(&events)).await;
    assert!(dropped.load(SeqCst), "the handler went on");
    heir.complete().await.expect("it is the heir's");
    stopped(stop, running).await;
}

pub(crate) async fn a_worker_that_is_shut_down_finishes_its_jobs<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for n in 0..3 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let (worker, events) = worker(&queue);
    let (finish, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (finished, says) = (finish.clone(), begun.clone());
    let (stop, running) = start(worker.handlers(1), move |_| {
        let (finished, says) = (finished.clone(), says.clone());
        async move {
            says.notify_one();
            finished.notified().await;
            Ok(())
        }
    });
    timeout(LIMIT, begun.notified()).await.expect("it begins");
    stop.send(()).expect("it listens");
    finish.notify_one();
    timeout(LIMIT, running).await.expect("it stops").expect("without a panic");
    assert_eq!((noted(&events).len(), jobs_left(&pool).await), (1, 2), "{:?}", noted(&events));
    assert_eq!(queue.counts().await.expect("the counts").due, 2, "the others were not claimed");
}

pub(crate) async fn jobs_still_running_after_the_grace_period_are_released<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let id = enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let (worker, events) = worker(&queue);
    let (stop, running, dropped) = begun(worker.grace(Duration::ZERO), id).await;
    stopped(stop, running).await;
    assert!(dropped.load(SeqCst));
    assert_eq!(noted(&events), [format!("released {id}")]);
    assert_eq!(claim_one(&queue).await.attempt(), 1, "it does not count");
}

pub(crate) async fn a_worker_can_be_woken<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let wake = Arc::new(Notify::new());
    let (worker, _) = worker(&queue);
    let (stop, running) = start(worker.poll_every(LONG).wake(wake.clone()), |_| async { Ok(()) });
    for n in 0..3 {
        enqueue(&pool, &queue, job(n)).await;
        wake.notify_one();
        eventually(0, async || jobs_left(&pool).await).await;
    }
    stopped(stop, running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_wakes_a_worker() {
    let (pool, queue) = queue::<Postgres>(4).await;
    let wake = PgWake::listen(&queue).await.expect("a listener");
    let (worker, _) = worker(&queue);
    let (stop, running) = start(worker.poll_every(LONG).wake(Arc::new(wake)), |_| async { Ok(()) });
    // The first claim may find the first job. Only a notification makes the worker claim again.
    let notifying = queue.clone().notifying();
    for n in 0..3 {
        enqueue(&pool, &notifying, job(n)).await;
        eventually(0, async || jobs_left(&pool).await).await;
    }
    stopped(stop, running).await;
}

/// The worker continues while the database is not available.
pub(crate) async fn a_worker_continues_after_an_outage_of_the_database<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let hide = "ALTER TABLE atomically_job RENAME TO hidden";
    DB::pool_execute(&pool, DB::sql(hide), &[]).await.expect("hidden");
    let (worker, events) = worker(&queue);
    let (stop, running) = start(worker, |_| async { Ok(()) });
    eventually(true, async || noted(&events).iter().filter(|event| event.starts_with("trouble")).count() > 1)
        .await;
    let show = "ALTER TABLE hidden RENAME TO atomically_job";
    DB::pool_execute(&pool, DB::sql(show), &[]).await.expect("there again");
    enqueue(&pool, &queue, job(1)).await;
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
}
