//! Transfers money in two round trips: BEGIN with the locks and the read, and the writes with COMMIT. Against
//! a server that is 1 ms away, the locks are held for 1 ms instead of 4.
//!
//! `DATABASE_URL=postgres://user:password@localhost/test cargo run --example two_round_trips`
//!
//! Creates the schema `example_two_round_trips` in that database, and drops it again.

use std::env;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use futures_util::future::try_join_all;
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

type Db = PoolTransactor<Postgres, Pessimistic>;

const ACCOUNTS: i64 = 4;
const DEPOSIT: i64 = 100;
const TRANSFERS: i64 = 100;

/// The columns `id`, `balance` and `version`. A struct that implements `sqlx::FromRow` works as well.
type Account = (i64, i64, i64);

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("account {account} holds {balance}, which is less than {amount}")]
    Overdraft { account: i64, balance: i64, amount: i64 },
    #[error(transparent)]
    Database(#[from] Error),
}

/// Sends the new balance together with COMMIT. If the version has changed meanwhile, nothing is stored and
/// the whole transfer runs again.
fn store(tx: &mut Tx<Postgres>, account: Account, change: i64) -> Result<(), Error> {
    let (id, balance, version) = account;
    let update = "UPDATE account SET balance = $1, version = version + 1 WHERE id = $2 AND version = $3";
    let update = sqlx::query(update).bind(balance + change).bind(id).bind(version);
    tx.at_commit(update)?.expect_one();
    Ok(())
}

/// Both accounts are locked in the order of their ids and read in the round trip of BEGIN, so transfers in
/// opposite directions do not deadlock.
async fn transfer(db: &Db, from: i64, to: i64, amount: i64) -> Result<(), TransferError> {
    db.on_rows("account", "id", [from, to])
        .reading::<Account>("id, balance, version")
        .run(async |tx, [from, to]| -> Result<_, TransferError> {
            let (account, balance, _) = from;
            if balance < amount {
                return Err(TransferError::Overdraft { account, balance, amount });
            }
            store(tx, from, -amount)?;
            store(tx, to, amount)?;
            Ok(())
        })
        .await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "example_two_round_trips")]);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await?;
    let schema = "DROP SCHEMA IF EXISTS example_two_round_trips CASCADE;
        CREATE SCHEMA example_two_round_trips;
        CREATE TABLE account (
            id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL DEFAULT 0
        );";
    sqlx::raw_sql(schema).execute(&pool).await?;
    for id in 1..=ACCOUNTS {
        let insert = sqlx::query("INSERT INTO account (id, balance) VALUES ($1, $2)");
        insert.bind(id).bind(DEPOSIT).execute(&pool).await?;
    }
    let db = Pessimistic::default().on(&pool).reuse_connections();

    match transfer(&db, 1, 99, 10).await {
        Err(TransferError::Database(error)) if error.missing_rows() == [1] => {
            println!("No money is taken for an account that does not exist: {error}.");
        }
        other => bail!("account 99 does not exist, and the transfer ended with {other:?}"),
    }
    let Err(refused) = transfer(&db, 1, 2, 1000).await else { bail!("an overdraft") };
    println!("Refused: {refused}.");

    let started = Instant::now();
    let pairs = (0..TRANSFERS).map(|n| (1 + n % ACCOUNTS, 1 + (n + 1 + n % 3) % ACCOUNTS));
    try_join_all(pairs.map(|(from, to)| transfer(&db, from, to, 1))).await?;
    let total: Option<i64> =
        sqlx::query_scalar("SELECT sum(balance)::bigint FROM account").fetch_one(&pool).await?;
    ensure!(total == Some(ACCOUNTS * DEPOSIT), "the total is {total:?}");
    println!("{TRANSFERS} transfers in all directions took {} ms.", started.elapsed().as_millis());
    println!("The total is still {}.", ACCOUNTS * DEPOSIT);
    sqlx::query("DROP SCHEMA example_two_round_trips CASCADE").execute(&pool).await?;
    Ok(())
}
