use std::marker::PhantomData;
use std::time::Duration;

use crate::backend::Backend;
use crate::error::Error;
use crate::isolation::Isolation;
use crate::schema::SchemaPart;
use crate::strategy::Strategy;
use crate::transactor::{Options, PoolTransactor, Transactor, TransactorExt as _};
use crate::tx::Tx;

use super::error::KeyError;
use super::key::IdempotencyKey;
use super::sql::KeySql;

/// Access to the stored keys, for maintenance:
/// [`IdempotencyExt::keys`](super::IdempotencyExt::keys) returns it.
#[derive(Debug)]
pub struct Keys<'a, DB, X: ?Sized> {
    transactor: &'a X,
    database: PhantomData<fn() -> DB>,
}

/// What is stored for a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StoredKey {
    /// The response, as JSON.
    pub response: String,
    /// The time since the key was written, by the database's clock.
    pub age: Duration,
    /// The time until the key expires; zero if it has expired and is not purged yet.
    pub expires_in: Duration,
}

impl<'a, DB: Backend, X: Transactor<DB> + ?Sized> Keys<'a, DB, X> {
    pub(super) fn new(transactor: &'a X) -> Self {
        Self { transactor, database: PhantomData }
    }

    /// Returns what is stored for a key; `None` if there is no such key. The key of a request in progress is
    /// not visible.
    ///
    /// # Errors
    ///
    /// Returns the database's error; [`KeyError::NoTable`].
    pub async fn find(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, Error> {
        let find =
            async |tx: &mut Tx<DB>| KeySql::of::<DB>().find(tx, key).await.map_err(KeyError::or_other::<DB>);
        let row = self.transactor.with(Options::new().queries_only()).run(find).await?;
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Ok(row.and_then(|row| {
            let (age, expires_in) = (seconds(row.age), seconds(row.expires_in));
            Some(StoredKey { response: row.response?, age, expires_in })
        }))
    }

    /// Deletes a key and its response, and returns whether there was one. The next request with this key runs
    /// the unit again.
    ///
    /// # Errors
    ///
    /// Returns the database's error; a lock timeout while a request with this key is in progress.
    pub async fn release(&self, key: &IdempotencyKey) -> Result<bool, Error> {
        let row = vec![key.digest.to_vec()];
        self.change(KeySql::of::<DB>().release, row).await.map(|released| released > 0)
    }

    /// Deletes the keys that have expired, a thousand per transaction, and returns their number.
    /// [`Purge`](crate::Purge) does that at intervals.
    ///
    /// Several processes may purge at the same time.
    ///
    /// # Errors
    ///
    /// Returns the database's error. What has been deleted until then stays deleted.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the current batch may or may not be deleted.
    pub async fn purge(&self) -> Result<u64, Error> {
        let mut deleted = 0;
        loop {
            match self.change(KeySql::of::<DB>().purge, Vec::new()).await? {
                0 => return Ok(deleted),
                batch => deleted += batch,
            }
        }
    }

    /// Uses READ COMMITTED: above it, InnoDB would also lock the gaps between the rows, and block the
    /// inserts of other requests.
    async fn change(&self, sql: &'static str, row: Vec<Vec<u8>>) -> Result<u64, Error> {
        let change = async |tx: &mut Tx<DB>| {
            KeySql::of::<DB>().change(tx, sql, None, row).await.map_err(KeyError::or_other::<DB>)
        };
        self.transactor.with(Options::new().isolation(Isolation::ReadCommitted)).run(change).await
    }
}

/// # The table of idempotency keys
impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Creates the table of idempotency keys if it is missing: [`Schema::create`](crate::Schema::create) for
    /// [`SchemaPart::Keys`].
    ///
    /// # Errors
    ///
    /// Those of [`Schema::create`](crate::Schema::create).
    pub async fn create_key_table(&self) -> Result<(), Error> {
        self.create_part(SchemaPart::Keys).await
    }
}
