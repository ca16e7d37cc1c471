//! Ordered jobs, and workers whose processes are killed or suspended: effects exactly once, and in order.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue, Retry, Worker};
use atomically::{Backoff, Pessimistic, TransactorExt as _};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::time::sleep;

use crate::crash::{Process, arguments, run_workers, until};
use crate::support::{TestBackend, TestPool};
use crate::{ask, effects, job, queue, write_ledger};

const KEYS: i64 = 200;
const HANDLERS: usize = 8;
const LEASE: Duration = Duration::from_millis(500);
const PROCESSES: usize = 3;

const DONE: &str = "SELECT COUNT(*) FROM ledger";
const PROCESS: &str = "ordered_storm::a_process_of_the_ordered_storm";

fn storm_queue<DB: TestBackend>(pool: &Pool<DB>) -> Queue<DB> {
    let queue = Queue::new("jobs", pool).expect("a name");
    queue.lease(LEASE).max_attempts(1_000).backoff(Backoff::none())
}

/// Runs a worker whose handlers count the jobs of each key, and note a job that is not the next one.
async fn work<DB: TestBackend>(pool: Pool<DB>, shutdown: impl Future + Send) {
    let worker = Worker::new(&storm_queue(&pool)).handlers(HANDLERS).poll_every(Duration::from_millis(50));
    let db = Pessimistic::default().on(&pool);
    let handler = |claim: Arc<Claim<DB>>| {
        let db = db.clone();
        async move {
            let number: i64 = claim.payload()?;
            if claim.attempt() == 1 && number % 13 == 0 {
                claim.fail("again", Retry::After(Duration::from_millis(5))).await?;
                return Ok(());
            }
            db.run(async |tx| {
                let count = DB::sql("UPDATE progress SET done = done + 1 WHERE id = ? AND done = ?");
                if DB::execute(tx, count, &[number % KEYS, number / KEYS]).await? != 1 {
                    DB::execute(tx, DB::sql("INSERT INTO violation VALUES (?)"), &[number]).await?;
                }
                write_ledger(tx, &claim).await?;
                claim.complete_in(tx).await
            })
            .await?;
            Ok(())
        }
    };
    worker.run(shutdown, handler).await;
}

async fn calm<DB: TestBackend>() -> TestPool<DB> {
    let (pool, _) = queue::<DB>(2).await;
    for table in ["progress (id BIGINT PRIMARY KEY, done BIGINT NOT NULL)", "violation (job BIGINT NOT NULL)"]
    {
        DB::pool_execute(&pool, DB::sql(&format!("CREATE TABLE {table}")), &[]).await.expect("a table");
    }
    for key in 0..KEYS {
        DB::pool_execute(&pool, DB::sql("INSERT INTO progress VALUES (?, 0)"), &[key]).await.expect("a row");
    }
    pool
}

async fn enqueue_portion<DB: TestBackend>(pool: &Pool<DB>, numbers: std::ops::Range<i64>) {
    // The workers lock the same keys all the time.
    let (queue, db) = (storm_queue(pool), Pessimistic::default().on(pool).deadline(Duration::from_secs(120)));
    let ordered = |n: i64| job(n).in_order_of(format!("key {}", n % KEYS)).expect("a key");
    let jobs: Vec<NewJob> = numbers.map(ordered).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
}

async fn all_were_done_in_order<DB: TestBackend>(pool: &Pool<DB>, jobs: i64) {
    let left = "SELECT COUNT(*) FROM ledger WHERE NOT EXISTS (SELECT 1 FROM atomically_job)";
    until(pool, left, jobs).await;
    let distinct = ask(pool, "SELECT COUNT(DISTINCT job) FROM ledger").await;
    assert_eq!((effects(pool).await, distinct), (jobs, jobs));
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM violation").await, 0, "a job overtook another one of its key");
    assert_eq!(ask(pool, "SELECT MIN(done) FROM progress").await, jobs / KEYS);
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
    assert!(
        ask(pool, "SELECT COUNT(*) FROM ledger WHERE token > 1 AND job % 13 <> 0").await > 0,
        "no job was taken over"
    );
}

async fn killed_processes<DB: TestBackend>(jobs: i64, blows: i64) {
    let pool = calm::<DB>().await;
    let start = || Process::start(PROCESS, &pool.url, 2);
    let mut processes: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    let portion = jobs / blows;
    for blow in 0..blows {
        enqueue_portion(&pool, blow * portion..(blow + 1) * portion).await;
        until(&pool, DONE, blow * portion + portion / 2).await;
        let victim = usize::try_from(blow).expect("small") % PROCESSES;
        if blow % 3 == 2 {
            processes[victim].signal("-STOP");
            sleep(LEASE * 2).await;
            processes[victim].signal("-CONT");
        } else {
            std::mem::replace(&mut processes[victim], start()).kill();
        }
    }
    until(&pool, DONE, jobs).await;
    for process in processes {
        process.drain().await;
    }
    all_were_done_in_order(&pool, jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "one of the processes that the tests start"]
async fn a_process_of_the_ordered_storm() {
    let (url, workers) = arguments();
    if url.starts_with("postgres") {
        be_a_process::<Postgres>(&url, workers).await
    } else {
        be_a_process::<MySql>(&url, workers).await
    }
}

async fn be_a_process<DB: TestBackend>(url: &str, workers: usize) {
    let pool = PoolOptions::<DB>::new().max_connections(12).connect(url).await.expect("a pool");
    run_workers(workers, |shutdown| work(pool.clone(), shutdown)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_runs_ordered_jobs_in_order_despite_killed_processes() {
    killed_processes::<Postgres>(2_400, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_runs_ordered_jobs_in_order_despite_killed_processes() {
    killed_processes::<MySql>(1_200, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_long_storm_of_ordered_jobs_on_postgres() {
    killed_processes::<Postgres>(20_000, 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_long_storm_of_ordered_jobs_on_mariadb() {
    killed_processes::<MySql>(20_000, 25).await;
}

/// Within one process, dropping a worker comes closest to killing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_runs_ordered_jobs_in_order_despite_dropped_workers() {
    let pool = calm::<Sqlite>().await;
    let shared = PoolOptions::<Sqlite>::new().max_connections(4).connect(&pool.url).await.expect("a pool");
    let start = || tokio::spawn(work(shared.clone(), pending::<()>()));
    let mut workers: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
    for blow in 0..6 {
        enqueue_portion(&pool, blow * 200..(blow + 1) * 200).await;
        until(&pool, DONE, blow * 200 + 100).await;
        let victim = usize::try_from(blow).expect("small") % PROCESSES;
        std::mem::replace(&mut workers[victim], start()).abort();
    }
    until(&pool, DONE, 1_200).await;
    all_were_done_in_order(&pool, 1_200).await;
    for worker in workers {
        worker.abort();
    }
}
