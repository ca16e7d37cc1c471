//! Orders over HTTP, safe for clients that send their requests again: `Idempotency-Key` on POST, `If-Match`
//! on PUT.
//!
//! `cargo run -p idempotent_api`, and then
//!
//! ```text
//! curl -i localhost:8080/orders -H 'Idempotency-Key: 8e03978e' -d '{"item": "tea", "quantity": 2}'
//! curl -i localhost:8080/orders -H 'Idempotency-Key: 8e03978e' -d '{"item": "tea", "quantity": 2}'
//! curl -i localhost:8080/orders/1 -X PUT -H 'If-Match: "1"' -d '{"item": "tea", "quantity": 3}'
//! ```

mod api;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use api::{Db, Orders};
use atomically::Pessimistic;
use atomically::idempotency::IdempotencyExt as _;
use clap::Parser;
use example_database::stop_requested;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

/// Takes orders over HTTP.
#[derive(Debug, Parser)]
struct Arguments {
    /// The address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The SQLite file, created if it does not exist. Without one, orders are kept in memory.
    #[arg(long)]
    database: Option<PathBuf>,
    /// The longest time that a request may take, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    deadline: u64,
    /// How long the response to a request is kept for repetitions of the request, in seconds.
    #[arg(long, default_value_t = 86_400)]
    keep: u64,
    /// The time between two removals of expired responses, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    purge_every: u64,
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    // A database in memory belongs to one connection.
    let (file, connections) = match arguments.database {
        Some(file) => (file, 8),
        None => (PathBuf::from(":memory:"), 1),
    };
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .with_context(|| format!("cannot open {}", file.display()))?;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(arguments.deadline));
    let api = api::router(Orders { db: db.clone(), keep: Duration::from_secs(arguments.keep) }).await?;

    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, api).with_graceful_shutdown(stop_requested()) => Ok(served?),
        () = purge(&db, Duration::from_secs(arguments.purge_every)) => Ok(()),
    }
}

/// Removes expired keys for as long as the server runs. Otherwise the table would grow with every request.
async fn purge(db: &Db, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match db.keys().purge().await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "removed expired keys"),
            // The next tick tries again.
            Err(error) => tracing::warn!(error = &error as &dyn Error, "could not remove expired keys"),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
