//! Three ways to meet a row that another transaction has locked: skip it, fail at once, or wait for a limited
//! time.
//!
//! `DATABASE_URL=postgres://user:password@localhost/test cargo run --example row_locks`
//!
//! Creates the schema `example_row_locks` in that database, and drops it again.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use atomically::{Error, Options, Pessimistic, PoolTransactor, RowLock, TransactorExt as _, Tx};
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::Notify;

type Db = PoolTransactor<Postgres, Pessimistic>;

/// SKIP LOCKED: takes the first seat that no other unit has locked. Units never wait for each other.
async fn any_free_seat(tx: &mut Tx<Postgres>) -> Result<Option<i64>, Error> {
    let select = "SELECT id FROM seat WHERE buyer IS NULL ORDER BY id LIMIT 1";
    let select = tx.locking(RowLock::NO_KEY_UPDATE.skip_locked(), select)?;
    Ok(sqlx::query_scalar(select).fetch_optional(&mut *tx).await?)
}

/// Locks a seat in the way that the caller chooses.
async fn lock_seat(tx: &mut Tx<Postgres>, lock: RowLock, seat: i64) -> Result<(), Error> {
    let select = tx.locking(lock, "SELECT id FROM seat WHERE id = $1")?;
    sqlx::query(select).bind(seat).fetch_one(&mut *tx).await?;
    Ok(())
}

/// Three other customers, while a unit holds the lock of seat 1.
async fn meet_a_locked_row(db: &Db) -> anyhow::Result<()> {
    let seat = db.run(async |tx: &mut Tx<Postgres>| any_free_seat(tx).await).await?;
    ensure!(seat == Some(2), "got {seat:?}");
    println!("SKIP LOCKED: a customer who takes any seat gets seat 2.");

    let nowait = RowLock::NO_KEY_UPDATE.nowait();
    match db.run(async |tx: &mut Tx<Postgres>| lock_seat(tx, nowait, 1).await).await {
        Err(error) if error.is_lock_not_available() => {
            println!("NOWAIT: the request for seat 1 fails at once: {error}.");
        }
        other => bail!("NOWAIT ended with {other:?}"),
    }

    // By default, a unit that met a lock timeout runs again until its deadline. This one may try once.
    let patience = Options::new().lock_timeout(Duration::from_millis(200)).attempts(1);
    let waits = db.with(patience);
    match waits.run(async |tx: &mut Tx<Postgres>| lock_seat(tx, RowLock::NO_KEY_UPDATE, 1).await).await {
        Err(error) if error.is_lock_timeout() => {
            println!("Lock timeout: the request for seat 1 fails after 200 ms: {error}.");
        }
        other => bail!("the lock timeout ended with {other:?}"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "example_row_locks")]);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await?;
    let schema = "DROP SCHEMA IF EXISTS example_row_locks CASCADE;
        CREATE SCHEMA example_row_locks;
        CREATE TABLE seat (id BIGINT PRIMARY KEY, buyer TEXT);
        INSERT INTO seat (id) VALUES (1), (2), (3);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let db = Pessimistic::default().on(&pool);

    // Only for the demonstration: a unit that holds the lock until the others have met it.
    let (locked, done) = (Notify::new(), Notify::new());
    let holder = db.run(async |tx: &mut Tx<Postgres>| -> Result<(), Error> {
        lock_seat(tx, RowLock::NO_KEY_UPDATE, 1).await?;
        locked.notify_one();
        done.notified().await;
        Ok(())
    });
    let others = async {
        locked.notified().await;
        println!("Seat 1 is locked.");
        let met = meet_a_locked_row(&db).await;
        done.notify_one();
        met
    };
    let (held, others) = tokio::join!(holder, others);
    held?;
    others?;
    sqlx::query("DROP SCHEMA example_row_locks CASCADE").execute(&pool).await?;
    Ok(())
}
