//! Stores a payment and a note about it. A note that cannot be stored does not lose the payment: it is in a
//! savepoint.
//!
//! `cargo run --example audit_trail`

use anyhow::{bail, ensure};
use atomically::{ConstraintKind, Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};

/// The unit of work: the payment must be stored, the note may fail. Returns whether the note was stored.
async fn pay(tx: &mut Tx<Sqlite>, payment: i64, receipt: &str) -> Result<bool, Error> {
    sqlx::query("INSERT INTO payment (id) VALUES ($1)").bind(payment).execute(&mut *tx).await?;

    match tx.savepoint(async |tx: &mut Tx<Sqlite>| add_note(tx, payment, receipt).await).await {
        Ok(()) => Ok(true),
        // The note is rolled back to the savepoint, and the payment goes on. Without the savepoint,
        // PostgreSQL would refuse every further statement of the transaction.
        Err(error) if is_duplicate(&error) => Ok(false),
        // Another error, or a conflict, after which the whole unit runs again.
        Err(error) => Err(error),
    }
}

/// The same without a savepoint: all or nothing.
async fn pay_strictly(tx: &mut Tx<Sqlite>, payment: i64, receipt: &str) -> Result<(), Error> {
    sqlx::query("INSERT INTO payment (id) VALUES ($1)").bind(payment).execute(&mut *tx).await?;
    add_note(tx, payment, receipt).await
}

async fn add_note(tx: &mut Tx<Sqlite>, payment: i64, receipt: &str) -> Result<(), Error> {
    let insert = sqlx::query("INSERT INTO note (payment, receipt) VALUES ($1, $2)");
    insert.bind(payment).bind(receipt).execute(&mut *tx).await?;
    Ok(())
}

fn is_duplicate(error: &Error) -> bool {
    error.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("payments.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE payment (id INTEGER PRIMARY KEY);
        CREATE TABLE note (payment INTEGER NOT NULL, receipt TEXT NOT NULL UNIQUE);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Pessimistic::default().on(&pool);

    let noted = db.run(async |tx: &mut Tx<Sqlite>| pay(tx, 1, "R-1").await).await?;
    ensure!(noted, "the first note was refused");
    println!("Payment 1 is stored, with a note about receipt R-1.");

    let noted = db.run(async |tx: &mut Tx<Sqlite>| pay(tx, 2, "R-1").await).await?;
    ensure!(!noted, "the same receipt was noted twice");
    println!("Payment 2 is stored without a note, because receipt R-1 has one already.");

    match db.run(async |tx: &mut Tx<Sqlite>| pay_strictly(tx, 3, "R-1").await).await {
        Err(error) if is_duplicate(&error) => {
            println!("Payment 3 has no savepoint, and is rolled back: {error}.")
        }
        other => bail!("the same receipt was noted twice: {other:?}"),
    }

    let payments: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM payment ORDER BY id").fetch_all(&pool).await?;
    let notes: Vec<i64> = sqlx::query_scalar("SELECT payment FROM note").fetch_all(&pool).await?;
    ensure!(payments == [1, 2] && notes == [1], "stored are payments {payments:?}, notes about {notes:?}");
    println!("Stored are payments 1 and 2, and a note about payment 1.");
    Ok(())
}
