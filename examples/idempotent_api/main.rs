//! Orders over HTTP, made for clients that send their requests again: an `Idempotency-Key` on POST, `If-Match` on PUT.
//!
//! `cargo run --example idempotent_api`, and then
//!
//! ```text
//! curl -i localhost:8080/orders -H 'Idempotency-Key: 8e03978e' -d '{"item": "tea", "quantity": 2}'
//! curl -i localhost:8080/orders -H 'Idempotency-Key: 8e03978e' -d '{"item": "tea", "quantity": 2}'
//! curl -i localhost:8080/orders/1 -X PUT -H 'If-Match: "1"' -d '{"item": "tea", "quantity": 3}'
//! ```

mod api;
#[path = "../support/signal.rs"]
mod signal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use atomically::Pessimistic;
use clap::Parser;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tokio::net::TcpListener;

/// Takes orders over HTTP.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The SQLite file, made where it is missing. Without one, orders are gone when the program ends.
    #[arg(long)]
    database: Option<PathBuf>,
    /// How many milliseconds a request may take.
    #[arg(long, default_value_t = 2000)]
    deadline: u64,
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    // In memory, the database lives in its one connection.
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
    let api = api::router(db).await?;

    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, api).with_graceful_shutdown(signal::told_to_stop()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
