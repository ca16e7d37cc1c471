use std::marker::PhantomData;
use std::time::Duration;

use crate::backend::Backend;
use crate::error::Error;
use crate::isolation::Isolation;
use crate::strategy::Strategy;
use crate::transactor::{Options, PoolTransactor, Transactor, TransactorExt as _};
use crate::tx::Tx;

use super::error::KeyError;
use super::key::IdempotencyKey;
use super::sql::KeySql;

/// The keys that are stored: what [`IdempotencyExt::keys`](super::IdempotencyExt::keys) gives to those who
/// operate the database.
#[derive(Debug)]
pub struct Keys<'a, DB, X: ?Sized> {
    transactor: &'a X,
    database: PhantomData<fn() -> DB>,
}

/// A key and the answer that is kept for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StoredKey {
    /// The response, as JSON.
    pub response: String,
    /// Since when, by the clock of the database.
    pub age: Duration,
    /// For how much longer; zero when it has expired and waits for being purged.
    pub expires_in: Duration,
}

impl<'a, DB: Backend, X: Transactor<DB> + ?Sized> Keys<'a, DB, X> {
    pub(super) fn new(transactor: &'a X) -> Self {
        Self { transactor, database: PhantomData }
    }

    /// What is stored for a key. A request that is still at work is not seen.
    ///
    /// # Errors
    ///
    /// The database's; [`KeyError::NoTable`].
    pub async fn find(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, Error> {
        let find = async |tx: &mut Tx<DB>| KeySql::of::<DB>().find(tx, key).await.map_err(KeyError::or_other);
        let row = self.transactor.with(Options::new().read_only()).run(find).await?;
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Ok(row.and_then(|row| {
            let (age, expires_in) = (seconds(row.age), seconds(row.expires_in));
            Some(StoredKey { response: row.response?, age, expires_in })
        }))
    }

    /// Forgets a key and its response, and answers whether there was one. The next request with this key is a
    /// new one: its effect happens again.
    ///
    /// # Errors
    ///
    /// The database's; a lock timeout while a request is at work on the key.
    pub async fn release(&self, key: &IdempotencyKey) -> Result<bool, Error> {
        let row = vec![key.digest.to_vec()];
        self.change(KeySql::of::<DB>().release, row).await.map(|released| released > 0)
    }

    /// Removes what has expired, a thousand at a time and each thousand in a transaction of its own, and
    /// answers how many there were.
    ///
    /// Several may do so at once.
    ///
    /// # Errors
    ///
    /// The database's; what was removed until then stays removed.
    ///
    /// # Cancellation
    ///
    /// The batch at hand may or may not be removed.
    pub async fn purge(&self) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            match self.change(KeySql::of::<DB>().purge, Vec::new()).await? {
                0 => return Ok(removed),
                batch => removed += batch,
            }
        }
    }

    /// Above READ COMMITTED, InnoDB would also lock the gaps between the rows, into which others write.
    async fn change(&self, sql: &'static str, row: Vec<Vec<u8>>) -> Result<u64, Error> {
        let change = async |tx: &mut Tx<DB>| {
            KeySql::of::<DB>().change(tx, sql, None, row).await.map_err(KeyError::or_other)
        };
        self.transactor.with(Options::new().isolation(Isolation::ReadCommitted)).run(change).await
    }
}

/// # The table of idempotency keys
impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// The statements that make the table of idempotency keys where it is missing, for migrations of your
    /// own.
    #[must_use]
    pub fn key_schema() -> &'static str {
        KeySql::of::<DB>().create
    }

    /// Makes the table of idempotency keys where it is missing.
    ///
    /// Looks in the catalog first: where the table and its index are there, nothing is locked, so it may be
    /// called at each start.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn create_key_table(&self) -> Result<(), Error> {
        self.create_schema(KeySql::of::<DB>().create).await
    }
}
