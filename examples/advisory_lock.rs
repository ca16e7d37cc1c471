//! Locks something that is not a row: invoice numbers without gaps for each customer, and a nightly job that
//! runs once.
//!
//! `DATABASE_URL=postgres://user:password@localhost/test cargo run --example advisory_lock`
//!
//! Creates the schema `example_advisory_lock` in that database, and drops it again.

use std::env;

use anyhow::{Context as _, ensure};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::try_join_all;
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Barrier;

/// Gives the customer's next invoice its number. There is no row to lock before the first invoice.
async fn invoice(tx: &mut Tx<Postgres>, customer: i64) -> Result<i64, Error> {
    // Held until the transaction ends. Units for other customers do not wait.
    tx.advisory_lock(("invoice", customer)).await?;
    let next = "SELECT coalesce(max(number), 0) + 1 FROM invoice WHERE customer = $1";
    let number: i64 = sqlx::query_scalar(next).bind(customer).fetch_one(&mut *tx).await?;
    let insert = sqlx::query("INSERT INTO invoice (customer, number) VALUES ($1, $2)");
    insert.bind(customer).bind(number).execute(&mut *tx).await?;
    Ok(number)
}

/// Runs in every process of a service, and does the work in one of them.
async fn nightly(tx: &mut Tx<Postgres>, both_have_tried: &Barrier) -> Result<bool, Error> {
    let is_mine = tx.try_advisory_lock("nightly").await?;
    // Only for the demonstration: the first one holds the lock until the other one has tried.
    both_have_tried.wait().await;
    Ok(is_mine)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "example_advisory_lock")]);
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await?;
    let schema = "DROP SCHEMA IF EXISTS example_advisory_lock CASCADE;
        CREATE SCHEMA example_advisory_lock;
        CREATE TABLE invoice (customer BIGINT NOT NULL, number BIGINT NOT NULL);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Pessimistic::default().on(&pool);

    let invoices = (0..40).map(|n| db.run(async move |tx: &mut Tx<Postgres>| invoice(tx, n % 2).await));
    let mut numbers = try_join_all(invoices).await?;
    numbers.sort_unstable();
    let wanted: Vec<i64> = (1..=20).flat_map(|number| [number, number]).collect();
    ensure!(numbers == wanted, "the numbers are {numbers:?}");
    println!("40 invoices at once for two customers: each customer has the numbers 1 to 20.");

    let both_have_tried = Barrier::new(2);
    let (one, other) = tokio::try_join!(
        db.run(async |tx: &mut Tx<Postgres>| nightly(tx, &both_have_tried).await),
        db.run(async |tx: &mut Tx<Postgres>| nightly(tx, &both_have_tried).await),
    )?;
    ensure!(one != other, "the nightly job runs {} times", u8::from(one) + u8::from(other));
    println!("Two processes start the nightly job, and one of them runs it.");

    sqlx::query("DROP SCHEMA example_advisory_lock CASCADE").execute(&pool).await?;
    Ok(())
}
