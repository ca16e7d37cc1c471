//! Keeps a rule over several rows, one doctor on call at all times, although no row and no version stands for
//! it.
//!
//! `cargo run --example on_call`
//!
//! Two doctors go off call at the same time. Each of them changes a different row, so neither a row lock nor
//! a version check on it would help: this is write skew. `Serializable` lets the database detect it, and runs
//! one of them again.

use anyhow::{bail, ensure};
use atomically::{Serializable, TransactorExt as _, Tx};
use sqlx::{Sqlite, SqlitePool};

#[derive(Debug, thiserror::Error)]
enum RosterError {
    #[error("{0} is the last one on call")]
    LastOne(&'static str),
    #[error(transparent)]
    Database(#[from] atomically::Error),
}

/// By way of the crate's error, which knows what the database reported.
impl From<sqlx::Error> for RosterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The unit of work: looks at all rows, and changes one.
async fn go_off_call(tx: &mut Tx<Sqlite>, doctor: &'static str) -> Result<u32, RosterError> {
    let others = sqlx::query_scalar("SELECT count(*) FROM doctor WHERE on_call AND name <> $1").bind(doctor);
    let others: i64 = others.fetch_one(&mut *tx).await?;
    if others == 0 {
        return Err(RosterError::LastOne(doctor));
    }
    let update = sqlx::query("UPDATE doctor SET on_call = FALSE WHERE name = $1").bind(doctor);
    update.execute(&mut *tx).await?;
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("roster.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE doctor (name TEXT PRIMARY KEY, on_call BOOLEAN NOT NULL);
        INSERT INTO doctor (name, on_call) VALUES ('Ann', TRUE), ('Bob', TRUE);";
    sqlx::raw_sql(schema).execute(&pool).await?;

    let db = Serializable::default().on(&pool);
    let (ann, bob) = tokio::join!(
        db.run(async |tx: &mut Tx<Sqlite>| go_off_call(tx, "Ann").await),
        db.run(async |tx: &mut Tx<Sqlite>| go_off_call(tx, "Bob").await),
    );
    println!("Ann and Bob are on call, and both want to go.");
    let (gone, refusal) = match (ann, bob) {
        (Ok(_), Err(error @ RosterError::LastOne(_))) => ("Ann", error),
        (Err(error @ RosterError::LastOne(_)), Ok(_)) => ("Bob", error),
        (ann, bob) => bail!("exactly one of them should go: Ann got {ann:?}, Bob got {bob:?}"),
    };
    println!("{gone} goes. The other one is refused: {refusal}.");

    let on_call: i64 =
        sqlx::query_scalar("SELECT count(*) FROM doctor WHERE on_call").fetch_one(&pool).await?;
    ensure!(on_call == 1, "{on_call} doctors are on call");
    println!("One doctor stays on call.");
    Ok(())
}
