//! Workers whose handlers of ordered and limited jobs end at the same time.

use std::time::Duration;

use atomically::queue::{Queue, Worker};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySql, Pool, Postgres, Row as _};
use tokio::sync::Barrier;
use tokio::task::spawn_blocking;

use crate::ordered::ordered;
use crate::resend::through;
use crate::support::proxy::Proxy;
use crate::support::servers::Server;
use crate::support::{TestBackend, eventually};
use crate::together::{barriers, handler};
use crate::worker::{LONG, noted, start, stopped, worker};
use crate::{ask, claim_one, enqueue, queue};

const KEYS: i64 = 6;

fn patient<DB: TestBackend>(worker: Worker<DB>, handlers: i64) -> Worker<DB> {
    let handlers = usize::try_from(handlers).expect("a number");
    worker.handlers(handlers).poll_every(Duration::from_millis(20))
}

/// Completed one after the other, each job would take as many transactions and requests.
pub(crate) async fn handlers_of_different_keys_share_a_commit<DB: TestBackend>() {
    const JOBS: i64 = 60;
    let (pool, queue) = queue::<DB>(4).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await;
    for n in 0..JOBS {
        enqueue(&pool, &queue, ordered(n, &format!("key {n}"))).await;
    }
    let (worker, events) = worker(&distant);
    let barriers = barriers(JOBS as usize);
    let handler = handler(&barriers, JOBS);
    let (stop, running) = start(patient(worker, JOBS).poll_every(Duration::from_secs(60)), handler);
    barriers[0].wait().await;
    let before = proxy.requests();
    barriers[1].wait().await;
    eventually(JOBS as usize, async || noted(&events).len()).await;
    let requests = proxy.requests() - before;
    stopped(stop, running).await;
    // MariaDB reads and deletes each key.
    let most = if DB::NAME == "PostgreSQL" { JOBS } else { 4 * JOBS };
    assert!(i64::from(requests) < most, "{requests} requests for {JOBS} jobs");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

/// The others of its batch make the next jobs of their keys due.
pub(crate) async fn a_stale_claim_among_others_makes_no_job_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    // No renewal notices the loss while the handlers run.
    let queue = queue.lease(LONG);
    for _ in 0..3 {
        let mut ids = Vec::new();
        for n in 0..2 * KEYS {
            ids.push(enqueue(&pool, &queue, ordered(n, &format!("key {}", n % KEYS))).await);
        }
        let (worker, events) = worker(&queue);
        let barriers = barriers(KEYS as usize);
        let (stop, running) = start(patient(worker, KEYS), handler(&barriers, KEYS));
        barriers[0].wait().await;
        let taken = DB::sql("UPDATE atomically_job SET token = token + 1 WHERE id = ?");
        DB::pool_execute(&pool, taken, &[ids[2]]).await.expect("taken over");
        barriers[1].wait().await;
        eventually(2 * KEYS as usize - 1, async || noted(&events).len()).await;
        stopped(stop, running).await;
        let next = ids[2 + KEYS as usize];
        let noted = noted(&events);
        assert!(noted.contains(&format!("lost {}", ids[2])), "{noted:?}");
        assert!(!noted.contains(&format!("completed {next}")), "{noted:?}");
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 2);
        assert_eq!(ask(&pool, "SELECT id FROM atomically_job WHERE waiting_key IS NOT NULL").await, next);
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 1);
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key WHERE taken = 1").await, 1);
        for table in ["atomically_job", "atomically_job_key"] {
            let clear = format!("DELETE FROM {table}");
            DB::pool_execute(&pool, DB::sql(&clear), &[]).await.expect("cleared away");
        }
    }
}

/// A transaction that enqueues a job of one key is open meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_completes_jobs_of_other_keys_while_a_key_is_locked() {
    let (pool, queue) = queue::<Postgres>(4).await;
    let db = Pessimistic::default().on(&pool).deadline(LONG);
    let mut ids = Vec::new();
    for n in 0..KEYS {
        ids.push(enqueue(&pool, &queue, ordered(n, &format!("key {n}"))).await);
    }
    let (worker, events) = worker(&queue);
    let barriers = barriers(KEYS as usize);
    let (stop, running) = start(patient(worker, KEYS), handler(&barriers, KEYS));
    barriers[0].wait().await;
    let (locked, unlock) = (Barrier::new(2), Barrier::new(2));
    let enqueuing = db.run(async |tx| {
        let _ = queue.enqueue(tx, ordered(KEYS, "key 2")).await?;
        locked.wait().await;
        unlock.wait().await;
        Ok::<_, Error>(())
    });
    let completing = async {
        locked.wait().await;
        barriers[1].wait().await;
        let others = ids.iter().filter(|id| **id != ids[2]);
        let mut others: Vec<_> = others.map(|id| format!("completed {id}")).collect();
        others.sort();
        let sorted = async || {
            let mut noted = noted(&events);
            noted.sort();
            noted
        };
        eventually(others, sorted).await;
        unlock.wait().await;
    };
    let (enqueued, ()) = tokio::join!(enqueuing, completing);
    enqueued.expect("a commit");
    eventually(KEYS as usize + 1, async || noted(&events).len()).await;
    stopped(stop, running).await;
    assert!(noted(&events).iter().all(|event| event.starts_with("completed")), "{:?}", noted(&events));
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 0);
}

async fn page_requests(pool: &Pool<MySql>) -> u64 {
    let sql = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_read_requests'";
    let row = sqlx::raw_sql(sql).fetch_one(pool).await.expect("the status");
    row.get::<String, _>(1).parse().expect("a number")
}

/// While an old snapshot exists, the index keeps the entries of jobs that are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_finds_the_next_job_of_a_key_without_reading_those_before_it() {
    const JOBS: i64 = 5_000;
    // The server counts the pages that all of its sessions read.
    let server = spawn_blocking(Server::mariadb).await.expect("a server");
    let pool = MySqlPoolOptions::new().max_connections(4).connect(server.url()).await.expect("a pool");
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..JOBS).map(|n| ordered(n, "key")).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await.map(drop)).await.expect("a commit");
    let mut reader = pool.acquire().await.expect("a connection");
    for sql in ["START TRANSACTION WITH CONSISTENT SNAPSHOT", "SELECT COUNT(*) FROM atomically_job"] {
        sqlx::raw_sql(sql).execute(&mut *reader).await.expect("a snapshot");
    }
    let last = ask(&pool, "SELECT MAX(id) FROM atomically_job").await - 5;
    for sql in [
        format!("DELETE FROM atomically_job WHERE waiting_key IS NOT NULL AND id < {last}"),
        format!("UPDATE atomically_job_key SET next_id = {last}"),
    ] {
        MySql::pool_execute(&pool, MySql::sql(&sql), &[]).await.expect("a change");
    }
    // The server reads pages for itself as well.
    let mut fewest = u64::MAX;
    for n in 0..5 {
        let claim = claim_one(&queue).await;
        let before = page_requests(&pool).await;
        claim.complete().await.expect("a commit");
        fewest = fewest.min(page_requests(&pool).await - before);
        let next = format!("SELECT id FROM atomically_job WHERE has_slot = 1 AND id >= {last}");
        assert_eq!(ask(&pool, &next).await, last + n);
    }
    assert!(fewest < JOBS as u64, "{fewest} requests for pages");
}
