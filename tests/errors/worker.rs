//! Failures of SQLite's driver: a worker thread that panics, and pragmas that outlive a dropped run.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use atomically::{Atomic, Error, Optimistic, Options, Pessimistic, TransactorExt as _, Tx};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Connection as _, Executor as _, Sqlite};

use crate::support::TestBackend as _;

/// Returns a pool of one connection that has cached a `SELECT *` of a table which was altered since.
async fn outdated() -> crate::support::TestPool<Sqlite> {
    let pool = Sqlite::pool(1).await;
    pool.execute(sqlx::raw_sql("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)"))
        .await
        .expect("set up");
    sqlx::query("SELECT * FROM t").fetch_all(&*pool).await.expect("kept by the connection");
    let mut other = sqlx::SqliteConnection::connect(&pool.url).await.expect("another connection");
    other.execute(sqlx::raw_sql("ALTER TABLE t ADD COLUMN extra TEXT DEFAULT 'x'")).await.expect("altered");
    other.close().await.expect("closed");
    pool
}

/// The driver's worker panics, and the driver reports no error and no row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_select_whose_worker_panics_is_retried() {
    for (how, fetch) in
        [("fetch_one", 0_usize), ("fetch_optional", 1), ("fetch_all", 2), ("execute", 3), ("fetch", 4)]
    {
        let pool = outdated().await;
        let db = Pessimistic::default().on(&pool);
        let found = db
            .run(async |tx: &mut Tx<Sqlite>| {
                let query = || sqlx::query("SELECT * FROM t");
                let rows = match fetch {
                    0 => query().fetch_one(&mut *tx).await.map(|_| 1)?,
                    1 => usize::from(query().fetch_optional(&mut *tx).await?.is_some()),
                    2 => query().fetch_all(&mut *tx).await?.len(),
                    3 => query().execute(&mut *tx).await.map(|_| 1)?,
                    _ => {
                        use futures_util::TryStreamExt as _;
                        query().fetch(&mut *tx).try_collect::<Vec<_>>().await?.len()
                    }
                };
                Ok::<_, Error>((rows, tx.attempt()))
            })
            .await
            .unwrap_or_else(|error| panic!("{how}: {error:?}"));
        assert_eq!(found, (1, 2), "{how}");
    }
}

/// Nothing was written, so the commit cannot be in doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_worker_panics_has_no_unknown_commit() {
    let pool = outdated().await;
    let db = Optimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<Sqlite>| {
        let _ = sqlx::query("SELECT * FROM t").fetch_optional(&mut *tx).await;
        Ok::<_, Error>(())
    })
    .await
    .expect("run again");
    let lone = Atomic::default().on(&outdated().await.pool);
    let _ = lone.apply(sqlx::query("SELECT * FROM t")).await;
}

/// The run is dropped at many points, the opening included, after the driver's thread has executed its
/// statement. The next user of the connection can write, and waits for locks as long as before.
#[tokio::test(flavor = "current_thread")]
async fn a_dropped_read_only_run_in_memory_restores_its_pragmas() {
    let options = SqliteConnectOptions::new().in_memory(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("a pool");
    pool.execute(sqlx::raw_sql("CREATE TABLE t (id INTEGER)")).await.expect("a table");
    let reads = Optimistic::default().on(&pool).options(Options::new().read_only());
    let reads = reads.deadline(Duration::from_secs(3));
    for micros in (0..400).step_by(2) {
        {
            let unit = async |tx: &mut Tx<Sqlite>| {
                sqlx::query("SELECT COUNT(*) FROM t").fetch_one(&mut *tx).await?;
                Ok::<_, Error>(())
            };
            let (mut run, started) = (pin!(reads.run(unit)), Instant::now());
            let mut context = Context::from_waker(Waker::noop());
            while run.as_mut().poll(&mut context).is_pending() && started.elapsed().as_micros() < micros {
                tokio::task::yield_now().await;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let written = sqlx::query("INSERT INTO t VALUES (1)").execute(&pool).await;
        written.unwrap_or_else(|error| panic!("dropped after {micros} µs: {error}"));
        let timeout: i64 =
            sqlx::query_scalar("SELECT timeout FROM pragma_busy_timeout").fetch_one(&pool).await.expect("it");
        assert_eq!(timeout, 5000, "dropped after {micros} µs");
    }
}
