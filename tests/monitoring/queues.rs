//! The jobs of a queue.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atomically::queue::{Claim, NewJob, Queue, Worker};
use atomically::{Backend, Backoff, Error, Pessimistic, TransactorExt as _};
use sqlx::Pool;
use tokio::sync::{Notify, oneshot};

use crate::scrape::Exporter;
use crate::support::{TestBackend, TestPool, eventually};

async fn queue<DB: TestBackend>() -> (TestPool<DB>, Queue<DB>) {
    let pool = DB::pool(4).await;
    let queue = Queue::new("jobs", &pool).expect("a name").backoff(Backoff::none());
    queue.create_tables().await.expect("the tables");
    (pool, queue)
}

async fn enqueue<DB: Backend>(pool: &Pool<DB>, queue: &Queue<DB>, payload: i64, attempts: u32) {
    let job = NewJob::new(&payload).expect("a payload").max_attempts(attempts);
    let db = Pessimistic::default().on(pool);
    let _ = db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit");
}

/// A worker that polls often, and reports to the exporter.
fn worker<DB: Backend>(queue: &Queue<DB>, exporter: &Exporter) -> Worker<DB> {
    Worker::new(queue)
        .poll_every(Duration::from_millis(20))
        .depth_every(Duration::from_millis(100))
        .observed_by(exporter.metrics.clone())
}

/// Runs the worker until the condition holds for the exporter.
async fn until<DB, F>(
    worker: Worker<DB>,
    handler: impl Fn(Arc<Claim<DB>>) -> F + Send + Sync + 'static,
    exporter: &Exporter,
    wanted: &[(&str, &str, f64)],
) where
    DB: Backend,
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
    let figure = |(name, outcome, _): &(&str, &str, f64)| {
        let render = exporter.render();
        if !render.contains(name) {
            return 0.0;
        }
        let labels = [("queue", "jobs"), ("outcome", *outcome)];
        exporter.scrape().sum(name, if outcome.is_empty() { &labels[..1] } else { &labels })
    };
    let all: Vec<_> = wanted.iter().map(|(.., value)| *value).collect();
    eventually(all, async || wanted.iter().map(figure).collect()).await;
    let _ = stop.send(());
    running.await.expect("no panic");
}

const JOBS: &str = "atomically_queue_jobs_total";

pub(crate) async fn jobs_are_counted_by_outcome<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>().await;
    let exporter = Exporter::new();
    for payload in 0..5 {
        enqueue(&pool, &queue, payload, 3).await;
    }
    let poison = async |claim: Arc<Claim<DB>>| match claim.payload::<i64>()? {
        0 => Err(sqlx::Error::RowNotFound.into()),
        _ => Ok(()),
    };
    let wanted = [
        (JOBS, "completed", 4.0),
        (JOBS, "failed", 2.0),
        (JOBS, "dead", 1.0),
        (JOBS, "released", 0.0),
        (JOBS, "lease_lost", 0.0),
        ("atomically_queue_ready_jobs", "", 0.0),
        ("atomically_queue_dead_jobs", "", 1.0),
        ("atomically_queue_oldest_job_age_seconds", "", 0.0),
        ("atomically_queue_troubles_total", "", 0.0),
    ];
    until(worker(&queue, &exporter), poison, &exporter, &wanted).await;

    // One job is interrupted at the end, and two are not claimed.
    for payload in 5..8 {
        enqueue(&pool, &queue, payload, 1).await;
    }
    let due = "UPDATE atomically_job SET due_at = due_at - 90000000 WHERE died_at IS NULL";
    DB::pool_execute(&pool, DB::sql(due), &[]).await.expect("an hour and a half later");
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let worker = worker(&queue, &exporter).handlers(1).grace(Duration::ZERO);
        async move {
            worker
                .run(stopped, move |_| {
                    begins.notify_one();
                    std::future::pending()
                })
                .await;
        }
    });
    begun.notified().await;
    eventually(2.0, async || exporter.scrape().sum("atomically_queue_ready_jobs", &[("queue", "jobs")]))
        .await;
    let age = exporter.scrape().sum("atomically_queue_oldest_job_age_seconds", &[("queue", "jobs")]);
    assert!((90.0..3600.0).contains(&age), "{age} s");
    let _ = stop.send(());
    running.await.expect("no panic");
    assert_eq!(exporter.scrape().sum(JOBS, &[("outcome", "released")]), 1.0);
}

/// The worker that lost the lease counts it; and so does the unit whose completion comes too late, as a
/// failure.
pub(crate) async fn a_lost_lease_and_a_stale_claim_are_counted<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>().await;
    let exporter = Exporter::new();
    enqueue(&pool, &queue, 1, 9).await;
    let db = Pessimistic::default().on(&pool).observed_by(exporter.metrics.clone());
    let (other, rob) = (queue.clone(), pool.pool.clone());
    let late = move |claim: Arc<Claim<DB>>| {
        let (db, other, rob) = (db.clone(), other.clone(), rob.clone());
        async move {
            if claim.attempt() == 1 {
                // On a busy machine the worker may extend the lease in between, and a queue whose claims are
                // slow looks less often for jobs that were due before.
                let mut taken_over = 0;
                for _ in 0..600 {
                    DB::pool_execute(&rob, DB::sql("DELETE FROM atomically_job_lease"), &[]).await?;
                    DB::pool_execute(&rob, DB::sql("UPDATE atomically_job SET due_at = 1"), &[]).await?;
                    taken_over = other.claim(1).await?.len();
                    if taken_over == 1 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                assert_eq!(taken_over, 1, "it was taken over");
                let completes = db.named("completes");
                return completes.run(async |tx| claim.complete_in(tx).await).await;
            }
            Ok(())
        }
    };
    let wanted = [(JOBS, "lease_lost", 1.0), (JOBS, "completed", 0.0), (JOBS, "failed", 0.0)];
    // With one handler, the worker itself does not take its job over.
    until(worker(&queue, &exporter).handlers(1), late, &exporter, &wanted).await;
    let labels = [("unit", "completes"), ("kind", "stale_claim")];
    assert_eq!(exporter.scrape().sum("atomically_failures_total", &labels), 1.0);
}

/// Neither claims nor depths can be queried.
pub(crate) async fn trouble_is_counted<DB: TestBackend>() {
    let pool = DB::pool(2).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    let exporter = Exporter::new();
    let seldom = worker(&queue, &exporter)
        .poll_every(Duration::from_secs(3600))
        .depth_every(Duration::from_secs(3600));
    let nothing = |_| async { Ok(()) };
    until(seldom, nothing, &exporter, &[("atomically_queue_troubles_total", "", 2.0)]).await;
}

/// A running worker has a heartbeat. The heartbeat of a dropped worker becomes outdated, and that of a
/// stopped worker is reset, so that it raises no alert.
pub(crate) async fn workers_have_a_heartbeat<DB: TestBackend>() {
    // Workers are numbered for each name of a queue, and other tests of this process have workers for "jobs".
    let name = format!("beats-{}", DB::NAME.to_lowercase());
    let (pool, _) = queue::<DB>().await;
    let queue = Queue::new(&name, &pool).expect("a name");
    let queue_name = name.as_str();
    let exporter = Exporter::new();
    let heartbeat = |worker: &str| {
        let name = "atomically_queue_worker_heartbeat_timestamp_seconds";
        if exporter.render().contains(&format!("worker=\"{worker}\"")) {
            exporter.scrape().sum(name, &[("queue", queue_name), ("worker", worker)])
        } else {
            -1.0
        }
    };
    let run = || {
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = worker(&queue, &exporter);
        (stop, tokio::spawn(async move { worker.run(stopped, |_| async { Ok(()) }).await }))
    };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs_f64();
    let is_alive = |worker: &str| (now() - heartbeat(worker)).abs() < 60.0;
    let has_read = || {
        let read =
            exporter.scrape().sum("atomically_queue_depth_timestamp_seconds", &[("queue", queue_name)]);
        (now() - read).abs() < 60.0
    };
    let (_first_stop, first) = run();
    eventually(true, async || is_alive("0")).await;
    let (stop, second) = run();
    eventually(true, async || is_alive("1") && has_read()).await;
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    let last = heartbeat("0");
    assert!(last > 0.0, "it is missed");
    let _ = stop.send(());
    second.await.expect("no panic");
    assert_eq!((heartbeat("0"), heartbeat("1")), (last, 0.0));
    assert!(has_read());
}
