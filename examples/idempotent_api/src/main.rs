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
//!
//! On your own server: `cargo run -p idempotent_api --features postgres,mysql -- --database-url postgres://…`

mod api;
mod orders;

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
use example_database::{Place, Product, open, stop_requested, within};
use orders::OrderStore;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

const CONNECTIONS: u32 = 8;

/// Takes orders over HTTP.
#[derive(Debug, Parser)]
struct Arguments {
    /// The address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The database: postgres://…, mysql://… or sqlite://…; by default, a temporary SQLite file.
    ///
    /// PostgreSQL and MySQL have to be built in: `--features postgres,mysql`. The tables orders and
    /// atomically_key are created there if they do not exist.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// A SQLite file instead, created if it does not exist.
    #[arg(long, value_name = "FILE", conflicts_with = "database_url")]
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
    let place = Place::new(arguments.database_url.as_deref())?;
    match (place.product(), &arguments.database) {
        (Product::Sqlite, file) => {
            let options = match file {
                Some(file) => SqliteConnectOptions::new().filename(file).create_if_missing(true),
                None => place.sqlite_options()?,
            };
            // Readers do not wait for the writer.
            let options = options.journal_mode(SqliteJournalMode::Wal);
            serve_on::<sqlx::Sqlite>(options, &place.name(), &arguments).await
        }
        #[cfg(feature = "postgres")]
        (Product::Postgres, _) => {
            serve_on::<sqlx::Postgres>(place.options()?, &place.name(), &arguments).await
        }
        #[cfg(feature = "mysql")]
        (Product::MySql, _) => serve_on::<sqlx::MySql>(place.options()?, &place.name(), &arguments).await,
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        (other, _) => Err(example_database::not_built_in(other)),
    }
}

async fn serve_on<DB: OrderStore>(
    options: example_database::Options<DB>,
    name: &str,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let patience = Duration::from_secs(30);
    let pool = open::<DB>(PoolOptions::new(), options, name, CONNECTIONS, patience).await?;
    within(DB::create(&pool)).await.context("cannot create the table of orders")?;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(arguments.deadline));
    db.create_key_table().await.context("cannot create the table of keys")?;
    let api = api::router(Orders { db: db.clone(), keep: Duration::from_secs(arguments.keep) });

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
async fn purge<DB: OrderStore>(db: &Db<DB>, every: Duration) {
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
