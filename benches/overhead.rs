//! The cost of the crate compared with the same transaction written by hand in sqlx.
//!
//! `cargo bench -p benches --bench overhead`. PostgreSQL is `ATOMICALLY_POSTGRES_URL`, or a private server
//! that is started for it. After criterion's figures, it prints the ratio of the medians of contenders that
//! take turns after every transaction on the same connection, so that other load on the machine affects them
//! alike.

use std::hint::black_box;
use std::time::{Duration, Instant};

use atomically::{Error, Event, Metrics, Options, Pessimistic, PoolTransactor, Resolve, TransactorExt as _};
use criterion::Criterion;
use metrics_exporter_prometheus::PrometheusBuilder;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};
use tokio::runtime::Builder;

const TURNS: usize = 4_000;

macro_rules! contenders {
    ($module:ident, $pool:ty, $database:ty, $begin:literal, $select:literal) => {
        mod $module {
            use super::*;

            pub(super) async fn by_hand(pool: &$pool) -> Result<i64, sqlx::Error> {
                let mut tx = pool.begin_with($begin).await?;
                let value: i64 = sqlx::query_scalar($select).bind(1i64).fetch_one(&mut *tx).await?;
                sqlx::query("UPDATE counter SET value = $1 WHERE id = $2")
                    .bind(value + 1)
                    .bind(1i64)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(value)
            }

            pub(super) async fn run(db: &PoolTransactor<$database, Pessimistic>) -> Result<i64, Error> {
                db.run(async |tx| {
                    let value: i64 = sqlx::query_scalar($select).bind(1i64).fetch_one(&mut *tx).await?;
                    sqlx::query("UPDATE counter SET value = $1 WHERE id = $2")
                        .bind(value + 1)
                        .bind(1i64)
                        .execute(&mut *tx)
                        .await?;
                    Ok(value)
                })
                .await
            }
        }
    };
}

contenders!(
    postgres,
    PgPool,
    sqlx::Postgres,
    "BEGIN",
    "SELECT value FROM counter WHERE id = $1 FOR NO KEY UPDATE"
);
contenders!(sqlite, SqlitePool, sqlx::Sqlite, "BEGIN IMMEDIATE", "SELECT value FROM counter WHERE id = $1");

const SCHEMA: [&str; 3] = [
    "DROP TABLE IF EXISTS counter",
    "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
    "INSERT INTO counter VALUES (1, 0)",
];

async fn postgres_pool(options: PgPoolOptions) -> PgPool {
    let pool = options.max_connections(1).connect(&test_servers::postgres_url()).await.expect("PostgreSQL");
    for sql in SCHEMA {
        sqlx::query(sql).execute(&pool).await.expect("set up");
    }
    pool
}

async fn sqlite_pool(file: &std::path::Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off);
    let options =
        SqlitePoolOptions::new().max_connections(1).test_before_acquire(false).connect_with(options);
    let pool = options.await.expect("SQLite");
    for sql in SCHEMA {
        sqlx::query(sql).execute(&pool).await.expect("set up");
    }
    pool
}

/// Pools take a connection back in a separate task, with a round trip, which must not count towards any
/// contender's time.
async fn settled<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) {
    while pool.num_idle() < pool.size() as usize {
        tokio::task::yield_now().await;
    }
}

/// The median time of each contender, taking turns.
macro_rules! medians {
    ($runtime:expr, $($pool:expr => $contender:expr),+ $(,)?) => {
        $runtime.block_on(async {
            let mut times: Vec<Vec<Duration>> = Vec::new();
            for turn in 0..TURNS {
                let mut contender = 0;
                $(
                    let started = Instant::now();
                    black_box($contender.await.expect("a commit"));
                    // The first turns warm up caches.
                    if turn == 0 {
                        times.push(Vec::with_capacity(TURNS));
                    } else {
                        times[contender].push(started.elapsed());
                    }
                    contender += 1;
                    settled(&$pool).await;
                )+
                let _ = contender;
            }
            times.into_iter().map(|mut times| { times.sort(); times[times.len() / 2] }).collect::<Vec<_>>()
        })
    };
}

fn main() {
    // One thread, because the work is compared, not how soon the scheduler wakes another thread.
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a temporary directory");

    let pg_default = runtime.block_on(postgres_pool(PgPoolOptions::new()));
    let pg_untested = runtime.block_on(postgres_pool(PgPoolOptions::new().test_before_acquire(false)));
    let pg_db = Pessimistic::default().on(&pg_default).reuse_connections();
    let lite = runtime.block_on(sqlite_pool(&directory.path().join("overhead.db")));
    let lite_db = Pessimistic::default().on(&lite).reuse_connections();

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("postgres");
    group.bench_function("sqlx", |b| b.to_async(&runtime).iter(|| postgres::by_hand(&pg_default)));
    group.bench_function("sqlx without the acquire test", |b| {
        b.to_async(&runtime).iter(|| postgres::by_hand(&pg_untested));
    });
    group.bench_function("atomically", |b| b.to_async(&runtime).iter(|| postgres::run(&pg_db)));
    group.finish();
    let mut group = criterion.benchmark_group("sqlite");
    group.bench_function("sqlx", |b| b.to_async(&runtime).iter(|| sqlite::by_hand(&lite)));
    group.bench_function("atomically", |b| b.to_async(&runtime).iter(|| sqlite::run(&lite_db)));
    group.finish();
    criterion.final_summary();

    println!("\nmedians of {TURNS} transactions each, taking turns");
    let pg =
        medians!(runtime, pg_default => postgres::by_hand(&pg_default), pg_default => postgres::run(&pg_db));
    report("PostgreSQL, sqlx", pg[0], pg[1]);
    let pg_db = Pessimistic::default().on(&pg_untested).reuse_connections();
    let pg = medians!(
        runtime,
        pg_untested => postgres::by_hand(&pg_untested),
        pg_untested => postgres::run(&pg_db)
    );
    report("PostgreSQL, sqlx without the acquire test", pg[0], pg[1]);
    let plain = Pessimistic::default().on(&pg_untested).reuse_connections();
    runtime.block_on(plain.create_operation_table()).expect("the table of operations");
    let resolving = plain.clone().options(Options::new().resolve_commits(Resolve::Operation));
    let pg =
        medians!(runtime, pg_untested => postgres::run(&plain), pg_untested => postgres::run(&resolving));
    report("PostgreSQL, commits not resolved", pg[0], pg[1]);
    let asking = plain.clone().options(Options::new().resolve_commits(Resolve::TransactionStatus));
    let times =
        medians!(runtime, pg_untested => postgres::run(&plain), pg_untested => postgres::run(&asking));
    report("PostgreSQL, commits not resolved (by status)", times[0], times[1]);
    let watched = plain.clone().observed_by(|_: &Event<'_>| ());
    let measured = plain.clone().observed_by(metrics());
    let times = medians!(
        runtime, pg_untested => postgres::run(&plain), pg_untested => postgres::run(&watched),
        pg_untested => postgres::run(&measured)
    );
    report("PostgreSQL, no observer (with a closure)", times[0], times[1]);
    report("PostgreSQL, no observer (with metrics)", times[0], times[2]);
    let plain = Pessimistic::default().on(&lite).reuse_connections();
    let watched = plain.clone().observed_by(metrics());
    let times = medians!(runtime, lite => sqlite::run(&plain), lite => sqlite::run(&watched));
    report("SQLite, no observer (with metrics)", times[0], times[1]);
    runtime.block_on(plain.create_operation_table()).expect("the table of operations");
    let resolving = plain.clone().options(Options::new().resolve_commits(Resolve::Operation));
    let times = medians!(runtime, lite => sqlite::run(&plain), lite => sqlite::run(&resolving));
    report("SQLite, commits not resolved", times[0], times[1]);
    let lite = medians!(runtime, lite => sqlite::by_hand(&lite), lite => sqlite::run(&lite_db));
    report("SQLite, sqlx", lite[0], lite[1]);
}

/// With an exporter that is never scraped.
fn metrics() -> Metrics {
    Metrics::recorded_by(PrometheusBuilder::new().build_recorder())
}

fn report(name: &str, by_hand: Duration, run: Duration) {
    let ratio = run.as_secs_f64() / by_hand.as_secs_f64();
    println!("  {name:<45} {by_hand:>9.1?}   atomically {run:>9.1?}   ratio {ratio:.3}");
}
