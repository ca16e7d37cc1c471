//! Workers that claim from one queue while the primary is replaced: each job has one effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue};
use atomically::{Error, Options, Pessimistic, TransactorExt as _};
use sqlx::Postgres;
use sqlx::postgres::PgPool;
use tokio::time::sleep;

use crate::support::eventually;
use crate::{Cluster, DEADLINE, all, lazy_pool};

const JOBS: i64 = 500;
const WORKERS: usize = 6;
const LEASE: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct Work {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    stopped: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_have_one_effect_across_a_failover() {
    let mut cluster = Cluster::with(&["CREATE TABLE effect (job BIGINT NOT NULL)"]).await;
    let direct = lazy_pool(cluster.servers[0].url());
    queue(&direct).create_tables().await.expect("the tables of the queue");
    let jobs: Vec<NewJob> = (0..JOBS).map(|job| NewJob::new(&job).expect("a job")).collect();
    let added = Pessimistic::default()
        .on(&direct)
        .run(async |tx| queue(&direct).enqueue_many(tx, &jobs).await)
        .await
        .expect("the jobs");
    assert_eq!(added, JOBS.unsigned_abs());
    direct.close().await;

    let work = Arc::new(Work::default());
    let pool = cluster.clients();
    let workers: Vec<_> = (0..WORKERS).map(|_| worker(pool.clone(), work.clone())).collect();
    let workers = tokio::spawn(all(workers));
    let some_are_done = async || work.acknowledged.load(SeqCst) > JOBS.unsigned_abs() / 4;
    eventually(true, some_are_done).await;
    cluster.kill_primary();
    cluster.promote().await;
    cluster.lead_to_primary();
    // At most one lease has to expire.
    eventually(0, async || cluster.number("SELECT count(*) FROM atomically_job").await).await;
    work.stopped.store(true, SeqCst);
    workers.await.expect("no worker dies");

    let effects = cluster.pairs("SELECT job, count(*) FROM effect GROUP BY job").await;
    let undone = (0..JOBS).filter(|job| !effects.contains_key(job)).count();
    let twice = effects.values().filter(|times| **times > 1).count();
    let report = format!("of {JOBS} jobs {undone} have no effect and {twice} have several: {work:?}");
    println!("{report}");
    assert!(undone + twice == 0, "{report}");
}

fn queue(pool: &PgPool) -> Queue<Postgres> {
    Queue::new("work", pool).expect("a queue").lease(LEASE).options(Options::new().deadline(DEADLINE))
}

async fn worker(pool: PgPool, work: Arc<Work>) {
    let queue = queue(&pool);
    while !work.stopped.load(SeqCst) {
        let claims = queue.claim(4).await.unwrap_or_default();
        for claim in &claims {
            handle(&pool, claim, &work).await;
        }
        if claims.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn handle(pool: &PgPool, claim: &Claim<Postgres>, work: &Work) {
    let job: i64 = claim.payload().expect("the number of a job");
    let db = Pessimistic::default().on(pool).deadline(DEADLINE);
    let effect = db.run(async |tx| {
        let insert = sqlx::query("INSERT INTO effect (job) VALUES ($1)").bind(job);
        insert.persistent(false).execute(&mut *tx).await?;
        claim.complete_in(tx).await?;
        Ok::<_, Error>(())
    });
    let count = match effect.await {
        Ok(()) => &work.acknowledged,
        Err(error) if error.is_commit_unknown() => &work.unknown,
        Err(_) => &work.failed,
    };
    count.fetch_add(1, SeqCst);
}
