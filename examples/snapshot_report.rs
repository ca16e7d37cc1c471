//! Reads several tables as of one moment: a report at REPEATABLE READ, while transfers go on.
//!
//! `DATABASE_URL=postgres://user:password@localhost/test cargo run --example snapshot_report`
//!
//! Creates the schema `example_report` in that database, and drops it again.

use std::env;

use anyhow::{Context as _, ensure};
use atomically::{Error, Isolation, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// The unit of work of the report: two queries, with a transfer of 10 from savings to checking between them.
async fn total(tx: &mut Tx<Postgres>, db: &Bank) -> Result<i64, Error> {
    let savings: i64 = sqlx::query_scalar("SELECT balance FROM savings").fetch_one(&mut *tx).await?;
    db.transfer(10).await?;
    let checking: i64 = sqlx::query_scalar("SELECT balance FROM checking").fetch_one(&mut *tx).await?;
    Ok(savings + checking)
}

/// Another service that writes to the accounts, with connections of its own.
struct Bank(PoolTransactor<Postgres, Pessimistic>);

impl Bank {
    async fn transfer(&self, amount: i64) -> Result<(), Error> {
        self.0
            .run(async |tx: &mut Tx<Postgres>| {
                for sql in [
                    "UPDATE savings SET balance = balance - $1",
                    "UPDATE checking SET balance = balance + $1",
                ] {
                    sqlx::query(sql).bind(amount).execute(&mut *tx).await?;
                }
                Ok(())
            })
            .await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL").context("set DATABASE_URL to a PostgreSQL database")?;
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "example_report")]);
    let [pool, others] =
        [2, 2].map(|most| PgPoolOptions::new().max_connections(most).connect_lazy_with(options.clone()));
    let schema = "DROP SCHEMA IF EXISTS example_report CASCADE;
        CREATE SCHEMA example_report;
        CREATE TABLE savings (balance BIGINT NOT NULL);
        CREATE TABLE checking (balance BIGINT NOT NULL);
        INSERT INTO savings VALUES (100);
        INSERT INTO checking VALUES (100);";
    sqlx::raw_sql(schema).execute(&pool).await?;
    let (db, bank) = (Pessimistic::default().on(&pool), Bank(Pessimistic::default().on(&others)));

    // READ COMMITTED, the default: each query sees what is committed when it begins.
    let mixed = db.run(async |tx: &mut Tx<Postgres>| total(tx, &bank).await).await?;
    println!("At READ COMMITTED, the report finds {mixed}: 10 were counted twice.");

    // REPEATABLE READ: all queries see what was committed when the first one began. `read_only` makes the
    // database refuse writes, and allows another attempt if the connection is lost while the unit commits.
    let report = Options::new().isolation(Isolation::RepeatableRead).read_only();
    let consistent = db.with(report).run(async |tx: &mut Tx<Postgres>| total(tx, &bank).await).await?;
    println!("At REPEATABLE READ, it finds {consistent}, although 10 were moved meanwhile.");
    ensure!((mixed, consistent) == (210, 200), "found {mixed} and {consistent}");

    sqlx::query("DROP SCHEMA example_report CASCADE").execute(&pool).await?;
    Ok(())
}
