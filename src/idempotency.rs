//! Idempotency keys: a request that is sent again has one effect, and everybody gets the same answer.
//!
//! A client that hears nothing sends its request again, with the same key. [`IdempotencyExt::once`] runs the
//! unit of work of a key at most once:
//!
//! ```
//! # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
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
//! let pay = async |tx: &mut atomically::Tx<sqlx::Sqlite>| {
//!     let insert = "INSERT INTO payment (amount) VALUES (500) RETURNING id";
//!     Ok::<i64, Error>(sqlx::query_scalar(insert).fetch_one(&mut *tx).await?)
//! };
//! assert_eq!(db.once(&key).run(pay).await?, Outcome::Fresh(1));
//! assert_eq!(db.once(&key).run(pay).await?, Outcome::Replayed(1));
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! The row of the key is written first in the *same* transaction as the effect, and the response is stored in
//! it. So there is no state in between to recover from: a process that dies leaves neither an effect nor a
//! key. The [guide](crate::guide::idempotency) argues, and says what to answer over HTTP.

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

/// What became of a request.
///
/// # Why not a `Result`?
///
/// None of it is an error: each is an answer that somebody who sends a request twice has to expect. Callers
/// act on each in another way, so each has a name; over HTTP they are 200, 200, 409 and 422.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Outcome<T> {
    /// The unit was run, and its effect is stored.
    Fresh(T),
    /// The unit had been run before, and this is what it answered then.
    Replayed(T),
    /// Somebody else is at work on this key and was not done in time. Nothing was run; send the request
    /// again, later and with the same key.
    InProgress,
    /// The key was used for another request. Nothing was run, and never will be under this key.
    Mismatch,
}

impl<T> Outcome<T> {
    /// The response, whoever's it was.
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

/// What users do with a [`Transactor`] and idempotency keys.
pub trait IdempotencyExt<DB: Backend>: Transactor<DB> {
    /// Begins a run under a key: see [`Once`].
    fn once(&self, key: &IdempotencyKey) -> Once<'_, DB, Self> {
        Once::new(self, key)
    }

    /// The keys that are stored, for those who operate the database.
    fn keys(&self) -> Keys<'_, DB, Self> {
        Keys::new(self)
    }
}

impl<DB: Backend, X: Transactor<DB> + ?Sized> IdempotencyExt<DB> for X {}

/// Begins a part of a unit of work that is done once for a key, in a transaction that somebody else began:
/// see [`OnceIn`].
pub fn once_in<'t, DB: Backend>(tx: &'t mut Tx<DB>, key: &IdempotencyKey) -> OnceIn<'t, DB> {
    OnceIn::new(tx, key)
}
