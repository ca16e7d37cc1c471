//! What the short examples share: the command line, a pool of the right kind, tables that come and go.

#[path = "../flash_sale/database.rs"]
mod database;
mod signal;

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use atomically::queue::{Fault, Queue, QueueBackend};
use clap::Parser;
use sqlx::{AssertSqlSafe, Executor, MySql, Pool, Postgres, SqlSafeStr as _, SqlStr, Sqlite};
use tempfile::TempDir;

use database::{LIMIT, Place};

const CONNECTIONS: u32 = 8;

/// Those of all queues, with columns that are the crate's business.
const QUEUE_TABLES: [(&str, &str); 2] = [("atomically_job", ""), ("atomically_job_lease", "")];

/// An example of the crate `atomically`: what it does is told at the top of its source.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to run: postgres://…, mysql://… or sqlite://…; unless named, in a temporary SQLite file.
    ///
    /// The example's tables, whose names begin with atomically_, are dropped there before and after; those of queues only
    /// if there were none before.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

/// A pool of the kind that was asked for.
#[derive(Debug)]
pub(crate) enum AnyPool {
    Postgres(Pool<Postgres>),
    MySql(Pool<MySql>),
    Sqlite(Pool<Sqlite>),
}

/// Makes a copy of the items for each database, in which `Db` is the database and `sql` puts its own parameters in
/// place of each `?`; and a function `on_any` that creates `TABLES`, runs the copy's `story` and drops them.
///
/// A program that speaks to one database needs none of this: sqlx's executors only want to know which one it is.
macro_rules! on_each_database {
    ($($item:item)*) => {
        mod on_postgres {
            use super::*;
            type Db = sqlx::Postgres;
            fn sql(text: &'static str) -> sqlx::SqlStr {
                support::numbered(text)
            }
            $($item)*
        }

        mod on_mysql {
            use super::*;
            type Db = sqlx::MySql;
            fn sql(text: &'static str) -> sqlx::SqlStr {
                sqlx::SqlSafeStr::into_sql_str(text)
            }
            $($item)*
        }

        mod on_sqlite {
            use super::*;
            type Db = sqlx::Sqlite;
            fn sql(text: &'static str) -> sqlx::SqlStr {
                sqlx::SqlSafeStr::into_sql_str(text)
            }
            $($item)*
        }

        async fn on_any(pool: support::AnyPool) -> anyhow::Result<()> {
            use support::{AnyPool, with_tables};
            match pool {
                AnyPool::Postgres(pool) => with_tables(&pool, &TABLES, on_postgres::story(&pool)).await,
                AnyPool::MySql(pool) => with_tables(&pool, &TABLES, on_mysql::story(&pool)).await,
                AnyPool::Sqlite(pool) => with_tables(&pool, &TABLES, on_sqlite::story(&pool)).await,
            }
        }
    };
}
pub(crate) use on_each_database;

/// `println!`, but for a reader that has gone away: that is no reason to panic and leave the tables behind.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}
pub(crate) use say;

/// The whole of an example's `main`. The exit code is 1 when the story did not end well, 2 when it could not begin.
pub(crate) async fn main(story: impl AsyncFnOnce(AnyPool) -> anyhow::Result<()>) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(request) if !request.use_stderr() => {
            let _ = request.print();
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            let text = mistake.to_string();
            // Without the hints that clap puts in paragraphs of their own.
            let sentence = text.split("\n\n").next().unwrap_or_default();
            return end(2, &format!("{sentence} (see --help)"));
        }
    };
    let (pool, _directory) = match open(arguments.database_url.as_deref()).await {
        Ok(opened) => opened,
        Err(error) => return end(2, &format!("error: {error:#}")),
    };
    match story(pool).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(1, &format!("error: {error:#}")),
    }
}

fn end(code: u8, sentence: &str) -> ExitCode {
    eprintln!("{}", sentence.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(code)
}

async fn open(url: Option<&str>) -> anyhow::Result<(AnyPool, Option<TempDir>)> {
    let name = url.map_or_else(|| "the temporary file".to_owned(), database::public);
    let (place, directory) = match url {
        Some(url) => (Place::named(url)?, None),
        None => Place::embedded().map(|(place, directory)| (place, Some(directory)))?,
    };
    let pool = match place {
        Place::Postgres(options) => {
            AnyPool::Postgres(database::open(options, &name, CONNECTIONS, LIMIT).await?)
        }
        Place::MySql(options) => AnyPool::MySql(database::open(options, &name, CONNECTIONS, LIMIT).await?),
        Place::Sqlite(options) => AnyPool::Sqlite(database::open(options, &name, CONNECTIONS, LIMIT).await?),
    };
    Ok((pool, directory))
}

/// Runs a story with fresh tables, each a name and its columns, and leaves none behind.
pub(crate) async fn with_tables<DB: QueueBackend>(
    pool: &Pool<DB>,
    tables: &[(&str, &str)],
    story: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let somebodys = has_queue(pool).await?;
    let told = async {
        drop_tables(pool, tables).await?;
        for (table, columns) in tables {
            execute(pool, format!("CREATE TABLE {table} ({columns})"))
                .await
                .with_context(|| format!("cannot create the table {table}"))?;
        }
        story.await
    };
    let told = tokio::select! {
        told = told => told,
        () = signal::told_to_stop() => Err(anyhow!("interrupted")),
    };
    let mut dropped = drop_tables(pool, tables).await;
    if !somebodys {
        dropped = dropped.and(drop_tables(pool, &QUEUE_TABLES).await);
    }
    pool.close().await;
    told.and(dropped)
}

/// Whether queues are kept here already. They have jobs in them that are not the example's to drop.
async fn has_queue<DB: QueueBackend>(pool: &Pool<DB>) -> anyhow::Result<bool> {
    let findings = Queue::new("atomically_example", pool)?.doctor().await?;
    let missing = findings.iter().filter(|finding| finding.fault == Fault::Missing).count();
    Ok(missing < QUEUE_TABLES.len())
}

async fn drop_tables<DB: QueueBackend>(pool: &Pool<DB>, tables: &[(&str, &str)]) -> anyhow::Result<()>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    for (table, _) in tables {
        execute(pool, format!("DROP TABLE IF EXISTS {table}"))
            .await
            .with_context(|| format!("cannot drop the table {table}"))?;
    }
    Ok(())
}

async fn execute<DB: QueueBackend>(pool: &Pool<DB>, sql: String) -> anyhow::Result<()>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let done = async { pool.acquire().await?.execute(AssertSqlSafe(sql)).await };
    database::within(done).await.map(drop)
}

/// The text with `$1`, `$2`, … in place of each `?`.
pub(crate) fn numbered(text: &'static str) -> SqlStr {
    let mut parts = text.split('?');
    let mut sql = parts.next().unwrap_or_default().to_owned();
    for (number, part) in (1..).zip(parts) {
        sql.push_str(&format!("${number}{part}"));
    }
    AssertSqlSafe(sql).into_sql_str()
}
