//! Books the last seat for two buyers at once, with a version check: one gets it, and the other learns
//! that it is gone.
//!
//! `cargo run --example last_seat_version`
//!
//! Nothing is locked between reading and writing. The unit that writes second finds another version,
//! and is retried.

use anyhow::{bail, ensure};
use atomically::{Optimistic, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};
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
async fn book(tx: &mut Tx<Sqlite>, buyer: &str, both_have_read: &Barrier) -> Result<u32, BookingError> {
    let select = tx.for_update("SELECT seats, version FROM event WHERE id = 1");
    let (seats, version): (i64, i64) = sqlx::query_as(select).fetch_one(&mut *tx).await?;
    if seats == 0 {
        return Err(BookingError::SoldOut { attempts: tx.attempt() });
    }
    // Only for the demonstration: neither buyer writes before both have read.
    if tx.attempt() == 1 {
        both_have_read.wait().await;
    }
    let update = "UPDATE event SET seats = $1, version = version + 1 WHERE id = 1 AND version = $2";
    let updated = sqlx::query(update).bind(seats - 1).bind(version).execute(&mut *tx).await?;
    // No row has this version any more: the unit is rolled back, and runs again after a short delay.
    tx.expect_one(updated.rows_affected())?;
    sqlx::query("INSERT INTO ticket (buyer) VALUES ($1)").bind(buyer).execute(&mut *tx).await?;
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("booking.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE event (id INTEGER PRIMARY KEY, seats INTEGER NOT NULL, version INTEGER NOT NULL);
        CREATE TABLE ticket (buyer TEXT NOT NULL);
        INSERT INTO event (id, seats, version) VALUES (1, 1, 0);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    let db = Optimistic::default().on(&pool);
    let both_have_read = Barrier::new(2);
    let (ann, bob) = tokio::join!(
        db.run(async |tx: &mut Tx<Sqlite>| book(tx, "Ann", &both_have_read).await),
        db.run(async |tx: &mut Tx<Sqlite>| book(tx, "Bob", &both_have_read).await),
    );
    println!("One seat is left, and Ann and Bob both read that it is free.");
    let (winner, loser, attempts) = match (ann, bob) {
        (Ok(_), Err(BookingError::SoldOut { attempts })) => ("Ann", "Bob", attempts),
        (Err(BookingError::SoldOut { attempts }), Ok(_)) => ("Bob", "Ann", attempts),
        (ann, bob) => bail!("exactly one buyer should get the seat: Ann got {ann:?}, Bob got {bob:?}"),
    };
    println!("{winner} gets the seat. {loser} reads again in attempt {attempts}: sold out.");

    let tickets: Vec<String> = sqlx::query_scalar("SELECT buyer FROM ticket").fetch_all(&pool).await?;
    ensure!(tickets == [winner], "the tickets are for {tickets:?}");
    println!("One ticket is stored, for {winner}.");
    Ok(())
}
