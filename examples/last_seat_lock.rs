//! Books the last seat for two buyers at once, with a row lock: the second buyer waits until the first has
//! decided.
//!
//! `DATABASE_URL=postgres://user:password@localhost/test cargo run --example last_seat_lock`
//!
//! Creates the schema `example_last_seat` in that database, and drops it again.

use std::env;

use anyhow::{Context as _, bail, ensure};
use atomically::{Pessimistic, TransactorExt as _, Tx};
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Barrier;

#[derive(Debug, thiserror::Error)]
enum BookingError {
    #[error("sold out")]
    SoldOut { attempts: u32 },
    #[error(transparent)]
    Database(#[from] atomically::Error),
}

/// By way of the crate's error, which knows what the database reported.
impl From<sqlx::Error> for BookingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The unit of work. Returns the number of attempts that it took.
async fn book(tx: &mut Tx<Postgres>, buyer: &str, both_have_begun: &Barrier) -> Result<u32, BookingError> {
    // Only for the demonstration: the transactions overlap.
    both_have_begun.wait().await;
    // Sent as `… FOR NO KEY UPDATE`: another buyer waits here until this transaction ends, and then reads
    // what it stored.
    let select = tx.for_update("SELECT seats FROM event WHERE id = 1");
    let seats: i64 = sqlx::query_scalar(select).fetch_one(&mut *tx).await?;
    if seats == 0 {
        return Err(BookingError::SoldOut { attempts: tx.attempt() });
    }
    // No version is needed: no other transaction can change the row between the SELECT and the UPDATE.
    sqlx::query("UPDATE event SET seats = $1 WHERE id = 1").bind(seats - 1).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO ticket (buyer) VALUES ($1)").bind(buyer).execute(&mut *tx).await?;
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "example_last_seat")]);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await?;
    let schema = "DROP SCHEMA IF EXISTS example_last_seat CASCADE;
        CREATE SCHEMA example_last_seat;
        CREATE TABLE event (id BIGINT PRIMARY KEY, seats BIGINT NOT NULL);
        CREATE TABLE ticket (buyer TEXT NOT NULL);
        INSERT INTO event (id, seats) VALUES (1, 1);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    let db = Pessimistic::default().on(&pool);
    let both_have_begun = Barrier::new(2);
    let (ann, bob) = tokio::join!(
        db.run(async |tx: &mut Tx<Postgres>| book(tx, "Ann", &both_have_begun).await),
        db.run(async |tx: &mut Tx<Postgres>| book(tx, "Bob", &both_have_begun).await),
    );
    println!("One seat is left, and Ann and Bob both want it.");
    let (winner, loser, attempts) = match (ann, bob) {
        (Ok(_), Err(BookingError::SoldOut { attempts })) => ("Ann", "Bob", attempts),
        (Err(BookingError::SoldOut { attempts }), Ok(_)) => ("Bob", "Ann", attempts),
        (ann, bob) => bail!("exactly one buyer should get the seat: Ann got {ann:?}, Bob got {bob:?}"),
    };
    ensure!(attempts == 1, "a row lock makes {loser} wait, not run again");
    println!("{winner} gets the seat. {loser} waits for the row, and its first attempt returns: sold out.");

    let tickets: Vec<String> = sqlx::query_scalar("SELECT buyer FROM ticket").fetch_all(&pool).await?;
    ensure!(tickets == [winner], "the tickets are for {tickets:?}");
    println!("One ticket is stored, for {winner}.");
    sqlx::query("DROP SCHEMA example_last_seat CASCADE").execute(&pool).await?;
    Ok(())
}
