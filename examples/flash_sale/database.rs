//! Where the tickets are sold.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use atomically::Backend;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor as _, MySql, Pool, Postgres, Sqlite};
use tempfile::TempDir;
use tokio::time::timeout;

/// How long anything may take that is done before and after a sale.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// A database that was named and not yet connected to.
#[derive(Debug)]
pub(crate) enum Place {
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
    Sqlite(SqliteConnectOptions),
}

impl Place {
    pub(crate) fn named(url: &str) -> anyhow::Result<Self> {
        let unreadable = |error| anyhow!("cannot read the database URL {}: {}", public(url), plain(error));
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres(url.parse().map_err(unreadable)?)),
            Some("mysql" | "mariadb") => Ok(Self::MySql(url.parse().map_err(unreadable)?)),
            Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
                bail!("a database in memory has no concurrency to show: name a file, or no database at all")
            }
            Some("sqlite") => Ok(Self::Sqlite(url.parse().map_err(unreadable)?)),
            _ => bail!(
                "a database URL begins with postgres://, mysql:// or sqlite://, and `{}` does not",
                public(url)
            ),
        }
    }

    /// In a file that is gone together with the directory.
    pub(crate) fn embedded() -> anyhow::Result<(Self, TempDir)> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("flash_sale.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        Ok((Self::Sqlite(options), directory))
    }
}

pub(crate) type Options<DB> = <<DB as sqlx::Database>::Connection as Connection>::Options;

/// What of the sale's tools differs between the databases.
pub(crate) trait Door: Backend {
    fn pool_options() -> PoolOptions<Self> {
        PoolOptions::new()
    }
}

impl Door for Postgres {}
impl Door for Sqlite {}

impl Door for MySql {
    /// The usual level of PostgreSQL, so that folklore means the same on both; the crate's strategies set their own.
    fn pool_options() -> PoolOptions<Self> {
        PoolOptions::new().after_connect(|connection: &mut MySqlConnection, _| {
            Box::pin(async move {
                connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map(drop)
            })
        })
    }
}

/// Connects, all of the connections at once: no sale pays for them.
pub(crate) async fn open<DB: Door>(
    options: Options<DB>,
    name: &str,
    connections: u32,
    patience: Duration,
) -> anyhow::Result<Pool<DB>> {
    // A pool takes a refused connection for a server that is about to start, and does not say what it waits for.
    within(async { options.connect().await?.close().await })
        .await
        .with_context(|| format!("cannot reach {name}"))?;
    let pool = DB::pool_options()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(patience)
        .connect_with(options);
    within(pool).await.with_context(|| format!("cannot open {connections} connections to {name}"))
}

/// Nothing is waited for without an end, and no error needs more than a line.
pub(crate) async fn within<T>(what: impl Future<Output = Result<T, sqlx::Error>>) -> anyhow::Result<T> {
    match timeout(LIMIT, what).await {
        Ok(done) => done.map_err(|error| anyhow!(plain(error))),
        Err(_) => bail!("no answer within {LIMIT:?}"),
    }
}

/// What the driver says, without its introduction.
fn plain(error: sqlx::Error) -> String {
    match &error {
        sqlx::Error::Io(cause) => cause.to_string(),
        sqlx::Error::Configuration(cause) => cause.to_string(),
        sqlx::Error::Database(cause) => cause.message().to_owned(),
        _ => error.to_string(),
    }
}

/// The URL without what is nobody else's business: user, password and options.
pub(crate) fn public(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}
