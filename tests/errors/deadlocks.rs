//! Units that keep deadlocking with each other all commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atomically::{Error, Optimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor as _, PgPool, Postgres};
use tokio::task::JoinSet;

use crate::support::{TestBackend as _, in_one_of};

const UNITS: i64 = 60;
const ROWS: i64 = 10;

/// A pool whose sessions detect deadlocks after a second, PostgreSQL's default.
async fn shop(connections: u32) -> (crate::support::TestPool<Postgres>, PgPool) {
    let server = Postgres::pool(1).await;
    let text = "CREATE TABLE stock (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
                INSERT INTO stock SELECT id, 0 FROM generate_series(0, 9) AS id";
    server.execute(sqlx::raw_sql(text)).await.expect("set up");
    let usual = PgPoolOptions::new().max_connections(connections).after_connect(|connection, _| {
        Box::pin(
            async move { connection.execute(sqlx::raw_sql("SET deadlock_timeout = '1s'")).await.map(drop) },
        )
    });
    let pool = usual.connect(&server.url).await.expect("a pool");
    (server, pool)
}

/// Updates all rows in a random order, which differs between attempts.
async fn update_all(db: &PoolTransactor<Postgres, Optimistic>, unit: i64) -> Result<(), Error> {
    static DRAW: AtomicU64 = AtomicU64::new(1);
    db.run(async move |tx: &mut Tx<Postgres>| {
        let mut rows: Vec<i64> = (0..ROWS).collect();
        let mut seed = DRAW.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ unit as u64;
        for i in (1..rows.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            rows.swap(i, (seed >> 33) as usize % (i + 1));
        }
        for row in rows {
            sqlx::query("UPDATE stock SET n = n + 1 WHERE id = $1").bind(row).execute(&mut *tx).await?;
        }
        Ok::<_, Error>(())
    })
    .await
}

/// Runs all units concurrently, within the default deadline of 10 s, of which they need less than half on a
/// machine that is not busy.
async fn all_commit(connections: u32) {
    in_one_of(3, async || committed(connections).await).await;
}

async fn committed(connections: u32) -> Result<(), String> {
    let (_server, pool) = shop(connections).await;
    let db = Optimistic::default().on(&pool);
    let started = Instant::now();
    let mut units = JoinSet::new();
    for unit in 0..UNITS {
        let db = db.clone();
        units.spawn(async move { update_all(&db, unit).await.map(|()| started.elapsed()) });
    }
    let (mut last, mut failed) = (Duration::ZERO, Vec::new());
    while let Some(unit) = units.join_next().await {
        match unit.expect("no panic") {
            Ok(elapsed) => last = last.max(elapsed),
            Err(error) => failed.push(error),
        }
    }
    println!("{connections} connections: {} failed, the last commit came after {last:.1?}", failed.len());
    let sum: i64 =
        sqlx::query_scalar("SELECT SUM(n)::bigint FROM stock").fetch_one(&pool).await.expect("a sum");
    assert_eq!(sum, (UNITS - failed.len() as i64) * ROWS);
    match failed.first() {
        None => Ok(()),
        Some(error) => Err(format!("{} of {UNITS} failed: {error:?}", failed.len())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_units_that_deadlock_all_commit_on_five_connections() {
    all_commit(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_units_that_deadlock_all_commit_on_twenty_connections() {
    all_commit(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_units_that_deadlock_all_commit_on_sixty_connections() {
    all_commit(60).await;
}
