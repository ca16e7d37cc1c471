//! The last seat, and two buyers who both see it free: one gets it, the other is told the truth.
//!
//! `cargo run --example seat_booking`

mod support;

use std::process::ExitCode;

use anyhow::{bail, ensure};
use atomically::{Optimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;
use tokio::sync::Barrier;

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The unit of work. It answers the attempt that it succeeded at.
    async fn book(tx: &mut Tx<Db>, buyer: &str, both_have_looked: &Barrier) -> Result<u32, BookingError> {
        let event = tx.for_update("SELECT seats, version FROM atomically_booking_event WHERE id = 1");
        let (seats, version): (i64, i64) = sqlx::query_as(event).fetch_one(&mut *tx).await?;
        if seats == 0 {
            return Err(BookingError::SoldOut { attempts: tx.attempt() });
        }
        // Not part of booking a seat: it makes sure that this story has a race in it.
        if tx.attempt() == 1 {
            both_have_looked.wait().await;
        }
        let take = "UPDATE atomically_booking_event SET seats = ?, version = version + 1 WHERE id = 1 AND version = ?";
        let taken = sqlx::query(sql(take)).bind(seats - 1).bind(version).execute(&mut *tx).await?;
        // Whoever comes second touches no row here, and his unit runs again from its first line.
        tx.expect_one(taken.rows_affected())?;
        let ticket = sql("INSERT INTO atomically_booking_ticket (seat, buyer) VALUES (?, ?)");
        sqlx::query(ticket).bind(seats).bind(buyer).execute(&mut *tx).await?;
        Ok(tx.attempt())
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        sqlx::query("INSERT INTO atomically_booking_event (id, seats, version) VALUES (1, 1, 0)")
            .execute(pool)
            .await?;
        // Readers take no locks here, so that both can look. `Pessimistic` would have the second one wait before he looks.
        let db = Optimistic::default().on(pool);
        let both_have_looked = Barrier::new(2);

        let (ann, bob) = tokio::join!(
            db.run(async |tx: &mut Tx<Db>| book(tx, "Ann", &both_have_looked).await),
            db.run(async |tx: &mut Tx<Db>| book(tx, "Bob", &both_have_looked).await),
        );
        say!("One seat is left. Ann and Bob both look, and both see it free.");
        let (winner, won, loser, lost) = match (ann, bob) {
            (Ok(won), Err(BookingError::SoldOut { attempts })) => ("Ann", won, "Bob", attempts),
            (Err(BookingError::SoldOut { attempts }), Ok(won)) => ("Bob", won, "Ann", attempts),
            (ann, bob) => bail!("one was to get the seat, but Ann was told {ann:?} and Bob {bob:?}"),
        };
        say!("{winner} has it, at attempt {won}.");
        say!("{loser} is run again, looks again, and is told at attempt {lost}: sold out.");
        ensure!(lost > 1, "{loser} was told so without having seen the seat");

        let seats: i64 =
            sqlx::query_scalar("SELECT seats FROM atomically_booking_event").fetch_one(pool).await?;
        let tickets = "SELECT buyer FROM atomically_booking_ticket";
        let tickets: Vec<String> = sqlx::query_scalar(tickets).fetch_all(pool).await?;
        ensure!(
            seats == 0 && tickets == [winner],
            "{seats} seats are left, and the tickets are for {tickets:?}"
        );
        say!("The database says the same: no seat left, one ticket, for {winner}.");
        Ok(())
    }
}

const TABLES: [(&str, &str); 2] = [
    ("atomically_booking_event", "id BIGINT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL"),
    // Without a key on the seat: nothing but the unit keeps it from being sold twice.
    ("atomically_booking_ticket", "seat BIGINT NOT NULL, buyer VARCHAR(20) NOT NULL"),
];

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
enum BookingError {
    #[error("sold out")]
    SoldOut { attempts: u32 },
    #[error(transparent)]
    Transaction(#[from] atomically::Error),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
