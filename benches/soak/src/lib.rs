//! The long run: every strategy, savepoints, hooks, idempotency keys, a queue, counters, leases and holds at
//! once, with callers that give up, killed sessions, cut and silent connections, and a server that is killed
//! and frozen; and an audit of every commit.
//!
//! ```sh
//! cargo run --release -p soak -- --database postgres --minutes 10
//! cargo run --release -p soak -- --database mariadb --commits 300000
//! cargo run --release -p soak -- --database postgres --database-url postgres://app:app@127.0.0.1/scratch
//! ```
//!
//! Without `--database-url` it starts a server of its own. With it, the server is neither killed nor frozen,
//! and the database must be empty: tables are created in it and stay.
//!
//! The seed determines what each caller does and which faults follow each other, and thereby what a run
//! tests. It does not determine the interleaving.

mod audit;
mod database;
mod faults;
mod ledger;
mod proxy;
mod report;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres};
use test_servers::Server;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use database::SoakDatabase;
use faults::Faults;
use ledger::Ledger;
use proxy::Proxy;
pub use report::Report;
use watch::Watch;
use work::Work;

/// What to run.
#[derive(Debug, Clone, Parser)]
pub struct Settings {
    /// The database.
    #[arg(long, value_enum, default_value = "postgres")]
    pub database: Product,
    /// A server that is running, with an empty database. By default one is started.
    #[arg(long)]
    pub database_url: Option<String>,
    /// How long to run at most.
    #[arg(long, default_value_t = 1.0)]
    pub minutes: f64,
    /// Ends the run after this many commits.
    #[arg(long)]
    pub commits: Option<u64>,
    /// How many callers run units at the same time.
    #[arg(long, default_value_t = 48)]
    pub callers: u64,
    /// How many connections they share.
    #[arg(long, default_value_t = 16)]
    pub connections: u32,
    /// What determines the work and the faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A database that a run can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Product {
    /// PostgreSQL.
    Postgres,
    /// MariaDB, or MySQL by URL.
    Mariadb,
}

/// Runs the work and the faults, and audits what is stored.
///
/// # Errors
///
/// The database could not be set up or read. A broken promise is not an error, but a finding of the report.
pub async fn run(settings: &Settings) -> Result<Report> {
    match settings.database {
        Product::Postgres => run_on::<Postgres>(settings).await,
        Product::Mariadb => run_on::<MySql>(settings).await,
    }
}

/// The time without faults at the end, in which everything has to recover.
const CALM: Duration = Duration::from_secs(5);

async fn run_on<DB: SoakDatabase>(settings: &Settings) -> Result<Report> {
    let server = match &settings.database_url {
        Some(_) => None,
        None => Some(spawn_blocking(DB::server).await?),
    };
    let url = settings.database_url.clone();
    let url = url.or_else(|| server.as_ref().map(|server| server.url().to_owned())).context("a URL")?;
    let direct: Pool<DB> = PoolOptions::new().max_connections(4).connect(&url).await.context("to connect")?;
    database::create_tables(&direct).await.context("an empty database")?;

    let ledger = Arc::new(Ledger::default());
    let proxy = Proxy::to(&url).await?;
    let work = Work::<DB>::start(settings, &proxy.url, &ledger).await?;
    let watch = Watch::start(direct.clone());
    let faults = Faults::start(settings.seed, server, direct.clone(), proxy);
    let limit = Duration::from_secs_f64(settings.minutes * 60.0);
    let elapsed = wait(settings.commits, limit, &ledger).await;
    // The server ends when this value is dropped.
    let (faults, _server) = faults.stop().await?;
    sleep(CALM).await;
    let work = work.stop().await;
    let watched = watch.stop().await;
    let findings = audit::audit(&direct, &ledger, &work, &watched, settings).await?;
    Ok(Report { database: DB::TITLE, seed: settings.seed, elapsed, ledger, work, faults, watched, findings })
}

/// Shows the progress until the run is over, and returns how long it took.
async fn wait(commits: Option<u64>, limit: Duration, ledger: &Ledger) -> Duration {
    let bar = ProgressBar::new(commits.unwrap_or(limit.as_secs().max(1)));
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    let begun = Instant::now();
    while begun.elapsed() < limit && commits.is_none_or(|commits| ledger.commits() < commits) {
        bar.set_position(commits.map_or(begun.elapsed().as_secs(), |_| ledger.commits()));
        bar.set_message(format!("{} commits", ledger.commits()));
        sleep(Duration::from_millis(200)).await;
    }
    bar.finish_and_clear();
    begun.elapsed()
}

/// The servers that a run starts.
fn started(database: Product) -> Server {
    match database {
        Product::Postgres => Server::postgres(),
        Product::Mariadb => Server::mariadb(),
    }
}
