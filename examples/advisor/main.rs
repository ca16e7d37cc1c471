//! Asks the database which strategy each unit of work needs.
//!
//! `cargo run --example advisor`
//!
//! `cargo run --example advisor -- --database-url postgres://user:password@localhost/test`
//!
//! Runs the units of three scenarios beside each other, in every order of their statements, under each
//! strategy. A schedule is wrong if it ends like no serial order of the units. SQLite has one writer at a time,
//! so there every strategy is right and only their costs differ. PostgreSQL, and MySQL or MariaDB, show what
//! goes wrong under which strategy. There, the example creates tables whose names begin with `advisor_`, and
//! drops them again. A PostgreSQL server waits for `deadlock_timeout` before it ends a deadlock, so set it to
//! 100 ms to get the advice sooner.

mod scenarios;
mod statements;

use std::env;

use anyhow::{Context as _, bail};
use scenarios::{NO_TABLES, TABLES, scenarios};
use sqlx::Pool;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use statements::Statements;

async fn run<DB: Statements>(pool: Pool<DB>) -> anyhow::Result<()> {
    DB::prepare(pool.clone(), NO_TABLES).await?;
    DB::prepare(pool.clone(), TABLES).await?;
    let result = scenarios(pool.clone()).await;
    DB::prepare(pool, NO_TABLES).await?;
    result
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let url = match arguments.next().as_deref() {
        None => None,
        Some("--database-url") => Some(arguments.next().context("--database-url needs a URL")?),
        Some(other) => bail!("unknown argument {other}; the only one is --database-url URL"),
    };
    match url {
        None => {
            let directory = tempfile::tempdir()?;
            let url = format!("sqlite://{}?mode=rwc", directory.path().join("advisor.db").display());
            let pool = SqlitePoolOptions::new().max_connections(4).connect(&url).await?;
            sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&pool).await?;
            run(pool).await
        }
        Some(url) if url.starts_with("postgres") => {
            run(PgPoolOptions::new().max_connections(4).connect(&url).await?).await
        }
        Some(url) => run(MySqlPoolOptions::new().max_connections(4).connect(&url).await?).await,
    }
}
