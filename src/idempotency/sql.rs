//! How each database keeps keys. The files of the databases hold the same items in the same order.

use futures_core::future::BoxFuture;
use sqlx::Row as _;

use crate::backend::{Backend, Value, WatchedQuery, required};
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

    /// Whether a connection keeps the prepared statements: behind a pooler, those of PostgreSQL may be another client's.
    const KEEPS_STATEMENTS: bool;

    /// Runs a text that returns one row with the columns of [`Row`], perhaps among others.
    fn fetch_key(tx: &mut Tx<Self>, sql: String) -> BoxFuture<'_, Result<Option<Row>, sqlx::Error>> {
        Box::pin(async move {
            let rows = tx.fetch_rows(WatchedQuery::of_values(sql, [])?).await?;
            rows.iter().find(|row| row.len() == Row::COLUMNS).map(Row::decode::<Self>).transpose()
        })
    }

    /// Runs a statement with these arguments, and returns how many rows it affected.
    fn change_keys<'t>(
        tx: &'t mut Tx<Self>,
        sql: &'static str,
        response: Option<String>,
        bytes: Vec<Vec<u8>>,
    ) -> BoxFuture<'t, Result<u64, sqlx::Error>> {
        Box::pin(async move {
            let response = response.map(|text| Value::Text(Some(text)));
            let values = response.into_iter().chain(bytes.into_iter().map(Value::Bytes));
            tx.execute_query(WatchedQuery::of_values(sql.to_owned(), values)?.kept(Self::KEEPS_STATEMENTS))
                .await
        })
    }
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

    fn decode<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let bytes = |column| required(DB::bytes(row, column)?, column);
        let integer = |column| required(DB::integer(row, column)?, column);
        Ok(Self {
            fingerprint: bytes(0)?,
            run: bytes(1)?,
            response: DB::text(row, 2)?,
            age: integer(3)?,
            expires_in: integer(4)?,
        })
    }

    pub(super) const fn has_expired(&self) -> bool {
        self.expires_in <= 0
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
