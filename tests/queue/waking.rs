//! Workers that claim before their next poll.

use std::sync::Arc;
use std::time::Duration;

use atomically::queue::{PgWake, Queue};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually};
use crate::worker::{LONG, jobs_left, start, stopped, worker};
use crate::{claim_one, enqueue, job, queue};

pub(crate) async fn a_scheduled_job_runs_when_it_is_due_before_the_next_poll<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let wake = Arc::new(Notify::new());
    let (worker, _) = worker(&queue);
    let (stop, running) = start(worker.poll_every(LONG).wake(wake.clone()), |_| async { Ok(()) });
    enqueue(&pool, &queue, job(1).run_after(LONG)).await;
    enqueue(&pool, &queue, job(2).run_after(Duration::from_millis(700))).await;
    wake.notify_one();
    eventually(1, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
}

pub(crate) async fn an_expired_lease_is_taken_over_before_the_next_poll<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    enqueue(&pool, &queue, job(1)).await;
    let _lost = claim_one(&queue.clone().lease(Duration::from_secs(1))).await;
    let (worker, _) = worker(&queue);
    let (stop, running) = start(worker.poll_every(LONG), |_| async { Ok(()) });
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
}

/// A notification that is sent while there is no connection is lost; reconnecting wakes the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_that_fails_loses_no_notification() {
    let (pool, queue) = queue::<Postgres>(4).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = PgPoolOptions::new().max_connections(1).connect(&proxy.url(&pool.url)).await;
    let distant = Queue::new("jobs", &distant.expect("a pool through the proxy")).expect("a name");
    let wake = PgWake::listen(&distant).await.expect("a listener");
    let (worker, _) = worker(&queue);
    let (stop, running) = start(worker.poll_every(LONG).wake(Arc::new(wake)), |_| async { Ok(()) });
    let notifying = queue.clone().notifying();
    enqueue(&pool, &notifying, job(1)).await;
    eventually(0, async || jobs_left(&pool).await).await;

    proxy.on("LISTEN", Fault::CutBefore);
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let killed = sqlx::query(kill).fetch_all(&pool.pool).await.expect("killed");
    assert_eq!(killed.len(), 1);
    eventually(true, async || proxy.hits() > 0).await;
    enqueue(&pool, &notifying, job(2)).await;
    proxy.heal();
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
}
