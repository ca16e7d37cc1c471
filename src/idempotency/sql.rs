//! How each database keeps keys. The files of the databases hold the same items in the same order.

use futures_core::future::BoxFuture;

use crate::backend::Backend;
use crate::tx::Tx;

use super::claim::Claimant;
use super::key::IdempotencyKey;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// A database that keeps idempotency keys: all of them do. Sealed, as [`Backend`] is.
pub trait KeyStore: Facts {}

/// The items behind [`KeyStore`], out of reach of its users so that they may grow.
#[doc(hidden)]
pub trait Facts: Backend {
    /// The table of keys and its index, made where they are missing.
    const CREATE_KEYS: &'static str;

    /// Stores a response: the response, the digest, the run.
    const STORE_RESPONSE: &'static str;

    /// Removes the row of a digest.
    const RELEASE: &'static str;

    /// Removes up to a thousand rows that have expired.
    const PURGE: &'static str;

    /// Writes the row of a key where it can be written, and returns what is there then, in a way that every isolation
    /// level sees.
    fn claim<'t>(
        tx: &'t mut Tx<Self>,
        claimant: &Claimant,
        write: &Write,
    ) -> BoxFuture<'t, Result<Found, sqlx::Error>>;

    /// The text that answers what is stored for a key.
    fn select_key(key: &IdempotencyKey) -> String;

    /// Runs a text that answers one row of [`Row`]'s columns, perhaps among others.
    fn fetch_key(tx: &mut Tx<Self>, sql: String) -> BoxFuture<'_, Result<Option<Row>, sqlx::Error>>;

    /// Runs a statement with these arguments and answers how many rows it touched.
    fn change_keys<'t>(
        tx: &'t mut Tx<Self>,
        sql: &'static str,
        response: Option<String>,
        bytes: Vec<Vec<u8>>,
    ) -> BoxFuture<'t, Result<u64, sqlx::Error>>;
}

/// What the attempt to write the row of a key found.
#[doc(hidden)]
#[derive(Debug)]
pub enum Found {
    /// The row was written: it is this run's.
    Written,
    /// This row is there, which may be the one that was written just now.
    Row(Row),
    /// There is no row.
    Nothing,
}

impl From<Option<Row>> for Found {
    fn from(row: Option<Row>) -> Self {
        row.map_or(Self::Nothing, Self::Row)
    }
}

/// How a row comes to be a claimant's.
#[doc(hidden)]
#[derive(Debug)]
pub enum Write {
    /// There is none yet.
    Insert,
    /// There is one of this run, which has expired.
    TakeOver(Vec<u8>),
}

/// The row of a key.
#[doc(hidden)]
#[derive(Debug)]
pub struct Row {
    pub(super) fingerprint: Vec<u8>,
    pub(super) run: Vec<u8>,
    pub(super) response: Option<String>,
    /// In seconds.
    pub(super) age: i64,
    /// In seconds.
    pub(super) expires_in: i64,
}

impl Row {
    /// How many columns there are: more than in any other row that the texts answer.
    const COLUMNS: usize = 5;

    pub(super) const fn has_expired(&self) -> bool {
        self.expires_in <= 0
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is performed, which is the same text for every database and another type; and whether a connection may keep the
/// statements: behind a pooler, PostgreSQL's may be another client's.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! performed {
    ($kept:literal) => {
        fn fetch_key(
            tx: &mut crate::tx::Tx<Self>,
            sql: String,
        ) -> futures_core::future::BoxFuture<'_, Result<Option<super::Row>, sqlx::Error>> {
            use sqlx::Row as _;

            Box::pin(async move {
                let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(tx).await?;
                let Some(row) = rows.iter().find(|row| row.len() == super::Row::COLUMNS) else {
                    return Ok(None);
                };
                Ok(Some(super::Row {
                    fingerprint: row.try_get(0)?,
                    run: row.try_get(1)?,
                    response: row.try_get(2)?,
                    age: row.try_get(3)?,
                    expires_in: row.try_get(4)?,
                }))
            })
        }

        fn change_keys<'t>(
            tx: &'t mut crate::tx::Tx<Self>,
            sql: &'static str,
            response: Option<String>,
            bytes: Vec<Vec<u8>>,
        ) -> futures_core::future::BoxFuture<'t, Result<u64, sqlx::Error>> {
            Box::pin(async move {
                let query = sqlx::query(sql).persistent($kept);
                let query = response.into_iter().fold(query, |query, text| query.bind(text));
                let query = bytes.into_iter().fold(query, |query, bytes| query.bind(bytes));
                Ok(query.execute(tx).await?.rows_affected())
            })
        }
    };
}
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use performed;
