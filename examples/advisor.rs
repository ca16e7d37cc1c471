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

use std::env;
use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use atomically::testing::{Advice, Advisor, AdvisorProgress, advise};
use atomically::{Backend, Error, Tx};
use futures_util::future::BoxFuture;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, SqlSafeStr as _, SqlStr, Sqlite};

/// The statements of the scenarios, on any database. An application has one database and needs no such trait.
trait Statements: Backend {
    /// Returns the only number of the only row.
    fn read(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<i64>>;

    /// Returns how many rows were changed.
    fn write(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<u64>>;

    /// Runs several statements.
    fn prepare(pool: Pool<Self>, sql: &'static str) -> BoxFuture<'static, sqlx::Result<()>>;
}

macro_rules! statements {
    ($database:ty) => {
        impl Statements for $database {
            fn read(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<i64>> {
                Box::pin(sqlx::query_scalar(sql).fetch_one(tx))
            }

            fn write(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<u64>> {
                Box::pin(async move { Ok(sqlx::query(sql).execute(tx).await?.rows_affected()) })
            }

            fn prepare(pool: Pool<Self>, sql: &'static str) -> BoxFuture<'static, sqlx::Result<()>> {
                Box::pin(async move { sqlx::raw_sql(sql).execute(&pool).await.map(drop) })
            }
        }
    };
}
statements!(Sqlite);
statements!(Postgres);
statements!(MySql);

const TABLES: &str = "
    CREATE TABLE advisor_event (id INT PRIMARY KEY, seats BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE advisor_doctor (id INT PRIMARY KEY, on_call INT NOT NULL);
    CREATE TABLE advisor_account (id INT PRIMARY KEY, balance BIGINT NOT NULL)";
const NO_TABLES: &str = "
    DROP TABLE IF EXISTS advisor_event;
    DROP TABLE IF EXISTS advisor_doctor;
    DROP TABLE IF EXISTS advisor_account";

fn text(sql: String) -> SqlStr {
    AssertSqlSafe(sql).into_sql_str()
}

/// Checks the version, but ignores that no row may have had it.
async fn sell<DB: Statements>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    let select = tx.for_update("SELECT seats * 1000 + version FROM advisor_event WHERE id = 1");
    let event = DB::read(tx, select).await?;
    let (seats, version) = (event / 1000, event % 1000);
    if seats > 0 {
        let update = format!(
            "UPDATE advisor_event SET seats = {}, version = version + 1 WHERE id = 1 AND version = {version}",
            seats - 1
        );
        DB::write(tx, text(update)).await?;
    }
    Ok(seats)
}

/// A doctor goes off call if another one stays.
async fn go_off_call<DB: Statements>(tx: &mut Tx<DB>, doctor: i64) -> Result<bool, Error> {
    let count = "SELECT COUNT(*) FROM advisor_doctor WHERE on_call = 1";
    let may_go = DB::read(tx, count.into_sql_str()).await? > 1;
    if may_go {
        DB::write(tx, text(format!("UPDATE advisor_doctor SET on_call = 0 WHERE id = {doctor}"))).await?;
    }
    Ok(may_go)
}

async fn transfer<DB: Statements>(tx: &mut Tx<DB>) -> Result<(), Error> {
    for (account, amount) in [(1, -5), (2, 5)] {
        let update = format!("UPDATE advisor_account SET balance = balance + {amount} WHERE id = {account}");
        DB::write(tx, text(update)).await?;
    }
    Ok(())
}

/// Reads the accounts one by one.
async fn audit<DB: Statements>(tx: &mut Tx<DB>) -> Result<i64, Error> {
    let mut total = 0;
    for account in [1, 2] {
        let select = format!("SELECT balance FROM advisor_account WHERE id = {account}");
        total += DB::read(tx, text(select)).await?;
    }
    Ok(total)
}

/// Shows a progress bar on a terminal.
fn show(progress: &AdvisorProgress) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let done = progress.done * 30 / progress.total.max(1);
    let bar: String = (0..30).map(|at| if at < done { '█' } else { '░' }).collect();
    let what = format!("{} under {}", progress.units.join(" and "), progress.strategy);
    eprint!("\r\x1b[2K{bar} {what}");
    let _ = std::io::stderr().flush();
}

async fn advised<DB: Statements>(title: &str, advisor: Advisor<'_, DB>) -> anyhow::Result<Advice> {
    let advice = advisor.on_progress(show).run().await?;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    println!("{title}\n\n{advice}");
    Ok(advice)
}

async fn scenarios<DB: Statements>(pool: Pool<DB>) -> anyhow::Result<()> {
    let seats = "DELETE FROM advisor_event; INSERT INTO advisor_event VALUES (1, 1, 0)";
    let sale = advise(&pool).set_up(|pool| DB::prepare(pool, seats)).unit("sell", sell);
    let sale = advised("The sale of the last seat, with a version check that nobody looks at", sale).await?;

    let doctors = "DELETE FROM advisor_doctor; INSERT INTO advisor_doctor VALUES (1, 1), (2, 1)";
    let on_call = advise(&pool)
        .set_up(|pool| DB::prepare(pool, doctors))
        .unit("Ann goes", async |tx: &mut Tx<DB>| go_off_call(tx, 1).await)
        .unit("Bob goes", async |tx: &mut Tx<DB>| go_off_call(tx, 2).await);
    let on_call = advised("Two doctors on call, one of whom has to stay", on_call).await?;

    let accounts = "DELETE FROM advisor_account; INSERT INTO advisor_account VALUES (1, 100), (2, 100)";
    let bank = advise(&pool)
        .set_up(|pool| DB::prepare(pool, accounts))
        .unit("transfer", transfer)
        .unit("audit", audit);
    let bank = advised("A transfer, and an audit of both accounts", bank).await?;

    let units = [sale, on_call, bank].into_iter().flat_map(|advice| advice.units);
    let lines = units.map(|advice| format!("{}: {}", advice.unit, advice.strategy.unwrap_or("none".into())));
    println!("Recommended: {}.", lines.collect::<Vec<_>>().join(", "));
    Ok(())
}

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
