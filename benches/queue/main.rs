//! The throughput of a queue, in jobs per second.
//!
//! `cargo bench -p benches --bench queue`; with `-- keys`, ordered and limited jobs beside unordered ones.
//! PostgreSQL is `ATOMICALLY_POSTGRES_URL`, or a private server that
//! is started for it. Plain runs without statistics, because only factors matter.

mod keys;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use atomically::queue::{NewJob, Queue, complete_all_in};
use atomically::{Backend, Error, Pessimistic, TransactorExt as _};
use sqlx::Pool;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

const CLIENTS: usize = 4;
const WINDOWS: u32 = 5;

fn jobs(count: usize) -> Vec<NewJob> {
    (0..count).map(|n| NewJob::new(&n).expect("a payload")).collect()
}

async fn enqueue<DB: Backend>(pool: &Pool<DB>, queue: &Queue<DB>, count: usize, batch: usize) {
    let db = Pessimistic::default().on(pool).reuse_connections().deadline(Duration::from_secs(60));
    let jobs = jobs(batch);
    for _ in 0..count / batch {
        match &jobs[..] {
            [job] => drop(db.run(async |tx| queue.enqueue(tx, job.clone()).await).await.expect("a commit")),
            jobs => drop(db.run(async |tx| queue.enqueue_many(tx, jobs).await).await.expect("a commit")),
        }
    }
}

/// Claims and completes one batch, and returns the number of its jobs.
async fn drain<DB: Backend>(pool: &Pool<DB>, queue: &Queue<DB>, batch: usize) -> Result<usize, Error> {
    let claims = queue.claim(batch).await?;
    match &claims[..] {
        [] => {}
        [claim] => claim.complete().await?,
        claims => {
            Pessimistic::default()
                .on(pool)
                .reuse_connections()
                .run(async |tx| complete_all_in(tx, claims).await)
                .await?;
        }
    }
    Ok(claims.len())
}

fn report(what: &str, count: usize, took: Duration) {
    println!("  {what:<55} {:>9.0} jobs/s", count as f64 / took.as_secs_f64());
}

async fn figures<DB: Backend>(name: &str, pool: &Pool<DB>, clients: usize) {
    println!("{name}");
    let queue = Queue::new("bench", pool).expect("a name").reuse_connections().persistent(true);
    queue.create_tables().await.expect("the tables");
    for (count, batch) in [(2_000, 1), (10_000, 10), (20_000, 100), (40_000, 1_000)] {
        let started = Instant::now();
        enqueue(pool, &queue, count, batch).await;
        report(&format!("enqueue, {batch} in a transaction"), count, started.elapsed());
    }
    for (count, batch) in [(2_000, 1), (8_000, 10), (20_000, 100)] {
        let started = Instant::now();
        let mut done = 0;
        while done < count {
            done += drain(pool, &queue, batch).await.expect("a batch");
        }
        report(&format!("claim and complete, {batch} at a time"), done, started.elapsed());
    }
    for batch in [1, 20] {
        let started = Instant::now();
        let done = concurrently(pool, &queue, clients, batch, Duration::from_secs(3), true).await;
        report(&format!("claim and complete, {batch} at a time, {clients} clients"), done, started.elapsed());
    }
}

/// With `mark`, a claim begins where the previous one ended.
async fn concurrently<DB: Backend>(
    pool: &Pool<DB>,
    queue: &Queue<DB>,
    clients: usize,
    batch: usize,
    time: Duration,
    mark: bool,
) -> usize {
    let done = Arc::new(AtomicU32::new(0));
    let end = Instant::now() + time;
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (pool, queue, done) = (pool.clone(), queue.clone(), done.clone());
            tokio::spawn(async move {
                while Instant::now() < end {
                    // A new queue has no mark.
                    let queue = if mark {
                        queue.clone()
                    } else {
                        Queue::new("bench", &pool).expect("a name").reuse_connections()
                    };
                    let count = drain(&pool, &queue, batch).await.expect("a batch");
                    if count == 0 {
                        break;
                    }
                    done.fetch_add(u32::try_from(count).unwrap_or(0), Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no client dies");
    }
    done.load(Relaxed) as usize
}

/// One open transaction that has read and does not end, like a report or a forgotten session.
async fn held_back(pool: &Pool<sqlx::Postgres>) {
    let queue = Queue::new("bench", pool).expect("a name").reuse_connections();
    for (held, mark, batch) in
        [(false, true, 1), (true, false, 1), (true, true, 1), (true, false, 20), (true, true, 20)]
    {
        sqlx::query("TRUNCATE atomically_job").execute(pool).await.expect("empty");
        enqueue(pool, &queue, 200_000, 1_000).await;
        sqlx::query("VACUUM ANALYZE atomically_job").execute(pool).await.expect("clean");
        let mut session = pool.acquire().await.expect("a connection");
        if held {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT COUNT(*) FROM atomically_job")
                .execute(&mut *session)
                .await
                .expect("a snapshot");
        }
        let mut windows = Vec::new();
        let fresh = Queue::new("bench", pool).expect("a name").reuse_connections();
        for _ in 0..WINDOWS {
            let started = Instant::now();
            let done = concurrently(pool, &fresh, CLIENTS, batch, Duration::from_secs(4), mark).await;
            windows.push(format!("{:.0}", done as f64 / started.elapsed().as_secs_f64()));
        }
        if held {
            sqlx::raw_sql("ROLLBACK").execute(&mut *session).await.expect("its end");
        }
        let vacuum = if held { "held back" } else { "free" };
        let mark = if mark { "a mark" } else { "no mark" };
        println!("  vacuum {vacuum}, {mark}, {batch} at a time: jobs/s every 4 s: {}", windows.join(", "));
    }
}

#[tokio::main]
async fn main() {
    if std::env::args().any(|argument| argument == "keys") {
        return keys::compare().await;
    }
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .connect(&test_servers::postgres_url())
        .await
        .expect("PostgreSQL");
    figures("PostgreSQL", &pool, CLIENTS).await;
    held_back(&pool).await;

    let directory = tempfile::tempdir().expect("a temporary directory");
    figures("SQLite", &sqlite(directory.path()).await, 1).await;
}

async fn sqlite(directory: &Path) -> Pool<sqlx::Sqlite> {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("queue.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("SQLite")
}
