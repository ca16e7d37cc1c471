//! Opens the database that the command line of an example names, or a temporary SQLite file.

mod signal;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Database, Pool};
use tempfile::TempDir;
use tokio::time::timeout;

pub use signal::stop_requested;

/// How long each step before and after an example's work may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// The connection options of a database.
pub type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// The database product that a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// `postgres://`
    Postgres,
    /// `mysql://` or `mariadb://`
    MySql,
    /// `sqlite://`
    Sqlite,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::MySql => "MySQL",
            Self::Sqlite => "SQLite",
        })
    }
}

/// A database that is not connected to yet.
#[derive(Debug)]
pub struct Place {
    product: Product,
    location: Location,
}

#[derive(Debug)]
enum Location {
    Url(String),
    Temporary(TempDir),
}

impl Place {
    /// The database that the URL names; without a URL, a SQLite file in a temporary directory.
    ///
    /// # Errors
    ///
    /// The URL names none of the supported products or a database in memory, or there is no temporary
    /// directory.
    pub fn new(url: Option<&str>) -> anyhow::Result<Self> {
        let Some(url) = url else {
            let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
            return Ok(Self { product: Product::Sqlite, location: Location::Temporary(directory) });
        };
        let product = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Product::Postgres,
            Some("mysql" | "mariadb") => Product::MySql,
            Some("sqlite") if url.contains(":memory:") || url.contains("mode=memory") => {
                bail!("a database in memory has no concurrency to show: name a file, or no database at all")
            }
            Some("sqlite") => Product::Sqlite,
            _ => bail!(
                "a database URL begins with postgres://, mysql:// or sqlite://, and `{}` does not",
                public(url)
            ),
        };
        Ok(Self { product, location: Location::Url(url.to_owned()) })
    }

    /// Which product it is.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.product
    }

    /// How messages refer to it: the URL without user, password and options.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.location {
            Location::Url(url) => public(url),
            Location::Temporary(_) => "the temporary file".to_owned(),
        }
    }

    /// The connection options of a server's URL.
    ///
    /// # Errors
    ///
    /// The URL cannot be read as one of this database, or there is no URL.
    pub fn options<O: ConnectOptions>(&self) -> anyhow::Result<O> {
        let Location::Url(url) = &self.location else { bail!("the temporary file has no URL") };
        url.parse().map_err(|error| anyhow!("cannot read the database URL {}: {}", public(url), plain(error)))
    }

    /// The connection options of a SQLite file.
    ///
    /// # Errors
    ///
    /// The URL cannot be read as one of SQLite.
    pub fn sqlite_options(&self) -> anyhow::Result<SqliteConnectOptions> {
        let Location::Temporary(directory) = &self.location else { return self.options() };
        Ok(SqliteConnectOptions::new()
            .filename(directory.path().join("example.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal))
    }
}

/// The error for a product that the program was built without.
#[must_use]
pub fn not_built_in(product: Product) -> anyhow::Error {
    let feature = match product {
        Product::Postgres => "postgres",
        Product::MySql => "mysql",
        Product::Sqlite => "sqlite",
    };
    anyhow!("this build does not include {product}: build it with `--features {feature}`")
}

/// Opens all connections of a pool, so that they cost nothing later.
///
/// # Errors
///
/// The database cannot be reached, or does not respond within [`LIMIT`].
pub async fn open<DB: Database>(
    pool: PoolOptions<DB>,
    options: Options<DB>,
    name: &str,
    connections: u32,
    acquire_timeout: Duration,
) -> anyhow::Result<Pool<DB>> {
    // The pool treats a refused connection as a server that is about to start, and does not report why it
    // waits.
    within(async { options.connect().await?.close().await })
        .await
        .with_context(|| format!("cannot reach {name}"))?;
    let pool = pool
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        .connect_with(options);
    within(pool).await.with_context(|| format!("cannot open {connections} connections to {name}"))
}

/// Waits at most [`LIMIT`], and shortens the error to one line.
///
/// # Errors
///
/// The error of the operation, or a timeout.
pub async fn within<T>(operation: impl Future<Output = Result<T, sqlx::Error>>) -> anyhow::Result<T> {
    match timeout(LIMIT, operation).await {
        Ok(done) => done.map_err(|error| anyhow!(plain(error))),
        Err(_) => bail!("no answer within {LIMIT:?}"),
    }
}

/// The driver's message without sqlx's introduction.
fn plain(error: sqlx::Error) -> String {
    match &error {
        sqlx::Error::Io(cause) => cause.to_string(),
        sqlx::Error::Configuration(cause) => cause.to_string(),
        sqlx::Error::Database(cause) => cause.message().to_owned(),
        _ => error.to_string(),
    }
}

/// The URL without user, password and options.
fn public(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}
