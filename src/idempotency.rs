//! Idempotency keys: a request that is sent several times has one effect and one response.
//!
//! A client that gets no response sends its request again with the same key. [`IdempotencyExt::once`] commits
//! the unit of work of a key at most once, and returns the stored response afterwards:
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
//! use atomically::{Error, Pessimistic};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE payment (id INTEGER PRIMARY KEY, amount INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! db.create_key_table().await?;
//!
//! let (client, header, body) = ("client 7", "8e03978e-40d5-43dd-bc93-6894a57f9324", r#"{"amount": 500}"#);
//! let key = IdempotencyKey::new(client, header)?.request(body);
//! let pay = async |tx: &mut atomically::Tx<sqlx::Sqlite>| -> Result<i64, Error> {
//!     let insert = "INSERT INTO payment (amount) VALUES (500) RETURNING id";
//!     Ok(sqlx::query_scalar(insert).fetch_one(&mut *tx).await?)
//! };
//! assert_eq!(db.once(&key).run(pay).await?, Outcome::Fresh(1));
//! assert_eq!(db.once(&key).run(pay).await?, Outcome::Replayed(1));
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! The key's row is written first in the *same* transaction as the effect, and the response is stored in it.
//! So there is no intermediate state to recover from: a process that dies leaves neither an effect nor a key.
//! The [guide](crate::guide::idempotency) explains the design, and which HTTP status to use for each outcome.

mod claim;
mod claimant;
mod error;
mod key;
mod keys;
mod once;
mod sql;

use crate::backend::Backend;
use crate::events::KeyOutcome;
use crate::transactor::Transactor;
use crate::tx::Tx;

pub use error::KeyError;
pub use key::{IdempotencyKey, InvalidKey};
pub use keys::{Keys, StoredKey};
pub use once::{Once, OnceIn};

/// The outcome of a request with an idempotency key.
///
/// # Why not a `Result`?
///
/// None of these is an error: a client that sends a request twice has to expect each of them. Callers handle
/// each of them differently: over HTTP they are 200, 200, 409 and 422.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Outcome<T> {
    /// The unit was run, its effect is stored, and this is its response.
    Fresh(T),
    /// An earlier request with this key has run the unit, and this is the stored response.
    Replayed(T),
    /// Another request with this key is in progress and did not finish in time. Nothing was run. Send the
    /// request again later, with the same key.
    InProgress,
    /// The key was used for a different request. Nothing was run; use another key.
    Mismatch,
}

impl<T> Outcome<T> {
    /// Returns the response, fresh or replayed.
    pub fn response(self) -> Option<T> {
        match self {
            Self::Fresh(response) | Self::Replayed(response) => Some(response),
            Self::InProgress | Self::Mismatch => None,
        }
    }

    fn as_key_outcome(&self) -> KeyOutcome {
        match self {
            Self::Fresh(_) => KeyOutcome::Fresh,
            Self::Replayed(_) => KeyOutcome::Replayed,
            Self::InProgress => KeyOutcome::InProgress,
            Self::Mismatch => KeyOutcome::Mismatch,
        }
    }
}

/// Adds idempotency keys to every [`Transactor`].
pub trait IdempotencyExt<DB: Backend>: Transactor<DB> {
    /// Returns a builder that runs a unit of work once for this key: see [`Once`].
    fn once(&self, key: &IdempotencyKey) -> Once<'_, DB, Self> {
        Once::new(self, key)
    }

    /// Returns access to the stored keys, for maintenance.
    fn keys(&self) -> Keys<'_, DB, Self> {
        Keys::new(self)
    }
}

impl<DB: Backend, X: Transactor<DB> + ?Sized> IdempotencyExt<DB> for X {}

/// Returns a builder that runs part of a unit of work once for this key, in the caller's transaction: see
/// [`OnceIn`].
pub fn once_in<'t, DB: Backend>(tx: &'t mut Tx<DB>, key: &IdempotencyKey) -> OnceIn<'t, DB> {
    OnceIn::new(tx, key)
}
