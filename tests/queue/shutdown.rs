//! Workers that are shut down while a request is in flight.

use std::time::{Duration, Instant};

use atomically::queue::Queue;
use sqlx::Pool;
use sqlx::pool::PoolOptions;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually};
use crate::worker::{noted, start, stopped, worker};
use crate::{ask, claim_one, enqueue, job, queue};

/// Occurs in the text of every claim.
const CLAIM: &str = "SKIP LOCKED";

/// Returns how many sessions of this database wait for a table.
async fn waiting<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    let sql = match DB::NAME {
        "PostgreSQL" => {
            "SELECT COUNT(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
        _ => {
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE db = database() AND state LIKE 'Waiting for table%'"
        }
    };
    ask(pool, sql).await
}

/// The signal arrives while the claim is blocked in the server.
pub(crate) async fn no_handler_starts_after_the_signal<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let id = enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let mut operator = pool.acquire().await.expect("a connection");
    let (lock, unlock) = match DB::NAME {
        "PostgreSQL" => ("BEGIN; LOCK TABLE atomically_job", "COMMIT"),
        _ => ("LOCK TABLES atomically_job WRITE, atomically_job_lease WRITE", "UNLOCK TABLES"),
    };
    DB::raw(&mut operator, lock).await.expect("a lock");
    let (worker, events) = worker(&queue);
    let (stop, running) = start(worker, |_| async { panic!("a handler begins") });
    eventually(true, async || waiting(&pool).await > 0).await;
    stop.send(()).expect("it listens");
    DB::raw(&mut operator, unlock).await.expect("unlocked");
    running.await.expect("without a panic");
    assert_eq!(noted(&events), [format!("released {id}")], "what the claim brought is given back");
    assert_eq!(claim_one(&queue).await.attempt(), 1, "and does not count");
}

pub(crate) async fn a_claim_without_a_response_does_not_delay_the_shutdown<DB: TestBackend>() {
    let (pool, _queue) = queue::<DB>(2).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = PoolOptions::<DB>::new().max_connections(3).connect(&proxy.url(&pool.url)).await;
    let distant = Queue::new("jobs", &distant.expect("a pool through the proxy")).expect("a name");
    proxy.on(CLAIM, Fault::SilenceBefore);
    let (worker, events) = worker(&distant);
    let (stop, running) = start(worker.grace(Duration::from_millis(100)), |_| async { Ok(()) });
    eventually(1, async || proxy.hits()).await;
    stopped(stop, running).await;
    // The claim itself would wait for ten seconds, and then fail.
    assert_eq!(noted(&events), [""; 0], "the worker has waited for the claim");
}

/// A server that does not respond cannot release jobs either.
pub(crate) async fn a_release_without_a_response_does_not_delay_the_shutdown<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = PoolOptions::<DB>::new().max_connections(3).connect(&proxy.url(&pool.url)).await;
    let distant = Queue::new("jobs", &distant.expect("a pool through the proxy")).expect("a name");
    enqueue(&pool, &queue, job(1)).await;
    let (worker, events) = worker(&distant);
    let worker = worker.handlers(1).grace(Duration::from_millis(100));
    let (stop, running) = start(worker, |_| std::future::pending());
    let claimed = "SELECT COUNT(*) FROM atomically_job WHERE claimed_at IS NOT NULL";
    eventually(1, async || ask(&pool, claimed).await).await;
    proxy.on("attempts - 1", Fault::SilenceBefore);
    let signalled = Instant::now();
    stopped(stop, running).await;
    assert!(proxy.hits() > 0, "nothing was released: {:?}", noted(&events));
    // The release itself would be sent until the lease expires, after half a minute.
    assert!(signalled.elapsed() < Duration::from_secs(20), "{:?}", signalled.elapsed());
}
