//! Finds out which promises a database server keeps.
//!
//! `cargo run --example certify`
//!
//! `cargo run --example certify -- --database-url postgres://user:password@localhost/test`
//!
//! Tests isolation levels, locks, savepoints, limits and more, in a schema of its own, which it drops again,
//! and prints a table. Without a URL, it tests SQLite. `--node URL` adds another address of the same cluster,
//! and can be repeated. `--json FILE` keeps the sheet. `--compare FILE` prints what has changed since a sheet
//! that was kept.
//!
//! Exits with 0 if the server does what the crate relies on, with 2 if it does not, and with 1 if it could
//! not be tested.

mod arguments;
mod bar;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use arguments::Arguments;
use atomically::Backend;
use atomically::testing::{Sheet, certify};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Postgres, Sqlite};

/// How long the removal of what was created may take.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

/// Pools connect when they are used, so an address that cannot be reached is an error of the certification.
async fn sheet_of<DB: Backend>(url: &str, nodes: &[String]) -> anyhow::Result<Sheet> {
    let pool = |url: &str| PoolOptions::<DB>::new().max_connections(2).connect_lazy(url);
    let nodes = nodes.iter().map(|url| pool(url)).collect::<Result<Vec<_>, _>>().context("--node")?;
    let pool = pool(url).context("--database-url")?;
    let sheet = certify(&pool).nodes(nodes).progress(bar::show).run();
    let sheet = tokio::select! {
        sheet = sheet => sheet.map_err(anyhow::Error::from),
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    bar::clear();
    pool.close().await;
    if sheet.is_err() {
        await_cleanup().await;
    }
    sheet
}

/// A certification that was dropped is cleaned up by a task of the runtime, which must not end before.
async fn await_cleanup() {
    let runtime = tokio::runtime::Handle::current();
    let deadline = Instant::now() + CLEANUP_LIMIT;
    while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::read(std::env::args().skip(1))?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let sheet = match &arguments.database_url {
        None => {
            let url = format!("sqlite://{}?mode=rwc", directory.path().join("certify.db").display());
            let pool = sqlx::SqlitePool::connect(&url).await?;
            sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&pool).await?;
            sheet_of::<Sqlite>(&url, &[]).await?
        }
        Some(url) if url.starts_with("postgres") => sheet_of::<Postgres>(url, &arguments.nodes).await?,
        Some(url) if url.starts_with("sqlite") => sheet_of::<Sqlite>(url, &arguments.nodes).await?,
        Some(url) => sheet_of::<MySql>(url, &arguments.nodes).await?,
    };
    print!("{sheet}");
    if let Some(file) = &arguments.compare {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let differences = sheet.differences_from(&Sheet::from_json(&text)?);
        println!("{} checks have changed since {file}.", differences.len());
        differences.iter().for_each(|difference| println!("- {difference}"));
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, sheet.to_json()).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(ExitCode::from(if sheet.findings().is_empty() { 0 } else { 2 }))
}

#[tokio::main]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
