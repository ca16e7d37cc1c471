//! A storm: impatient callers on a few hot rows, workers with failing, slow and panicking jobs, and a server
//! that is killed and frozen meanwhile. The guarantees are verified by independent reads of the database.
//!
//! It takes about twenty seconds for each database. `ATOMICALLY_STORM_SECONDS=300` makes it longer, with a
//! second kill:
//!
//! ```sh
//! ATOMICALLY_STORM_SECONDS=300 cargo test --test storm -- --nocapture --test-threads=1
//! ```

mod callers;
mod clock;
mod jobs;
mod openings;
mod report;
mod server;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;
mod troubles;
mod watch;

use std::env;
use std::sync::Arc;
use std::time::Duration;

use callers::Callers;
use clock::Clock;
use jobs::Jobs;
use report::Report;
use server::{StormServer, user_url};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Postgres};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use watch::Watch;

/// How long the storm lasts, unless the environment overrides it.
const DEFAULT_SECONDS: u64 = 16;

fn duration() -> Duration {
    let seconds = env::var("ATOMICALLY_STORM_SECONDS").ok().filter(|text| !text.is_empty());
    let seconds = seconds.map(|text| text.parse().expect("ATOMICALLY_STORM_SECONDS is a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS).max(DEFAULT_SECONDS))
}

async fn storm<DB: StormServer>() {
    let server = spawn_blocking(DB::server).await.expect("a server");
    let url = server.url().to_owned();
    let direct = PoolOptions::<DB>::new().max_connections(1).connect(&url).await.expect("a connection");
    for sql in DB::SETUP {
        sqlx_raw::<DB>(&direct, sql).await;
    }
    for id in 1..=callers::ROWS {
        let row = DB::sql("INSERT INTO hot (id, value, op) VALUES (?, 0, 0)");
        DB::pool_execute(&direct, row, &[id]).await.expect("a row");
    }
    direct.close().await;

    let clock = Arc::new(Clock::start());
    let jobs = Jobs::<DB>::start(&user_url(&url, "jobs"), &clock).await;
    let callers = Callers::<DB>::start(&url, &clock).await;
    let watch = Watch::<DB>::start(&user_url(&url, "watch"), &clock).await;
    let total = duration();
    let server = troubles::run(server, total, &clock).await;
    sleep(total.saturating_sub(clock.elapsed())).await;

    let calls = callers.stop().await;
    let jobs = jobs.stop(&clock).await;
    let watched = watch.stop().await;
    let direct = PoolOptions::<DB>::new().max_connections(1).connect(&url).await.expect("a connection");
    let stored = callers::stored::<DB>(&direct).await;
    let effects = jobs::effects::<DB>(&direct).await;

    let report = Report { database: DB::TITLE, total, clock: &clock, calls, stored, jobs, effects, watched };
    println!("{report}");
    let broken = report.violated_guarantees();
    assert!(broken.is_empty(), "{report}\n{}", broken.join("\n"));
    drop(server);
}

/// Runs a text as it is.
async fn sqlx_raw<DB: StormServer>(pool: &sqlx::Pool<DB>, sql: &'static str) {
    let mut connection = pool.acquire().await.expect("a connection");
    DB::raw(&mut connection, sql).await.expect(sql);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_every_guarantee_in_a_storm() {
    storm::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_keeps_every_guarantee_in_a_storm() {
    storm::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_waiting_runs_share_one_probe() {
    openings::waiting_runs_share_one_probe::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_waiting_runs_share_one_probe() {
    openings::waiting_runs_share_one_probe::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_impatient_callers_do_not_flood_a_slow_server() {
    openings::impatient_callers_get_sessions_and_do_not_flood_the_server::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_impatient_callers_do_not_flood_a_slow_server() {
    openings::impatient_callers_get_sessions_and_do_not_flood_the_server::<MySql>().await;
}
