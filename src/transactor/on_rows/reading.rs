//! Runs whose unit receives its rows.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::FromRow;

use super::named_rows::NamedRows;
use super::{OnRows, RowKeys};
use crate::backend::{Backend, Key};
use crate::error::Error;
use crate::transactor::output::UnitOutput;
use crate::transactor::{Decision, Options, Transactor, Unit};
use crate::tx::{RowRequest, RowsFn, Tx, UnitError};

/// Runs units that receive their rows, returned by [`OnRows::reading`].
#[must_use = "nothing is run before `run`"]
pub struct Reading<'a, DB, X: ?Sized, K, R> {
    on: OnRows<'a, DB, X, K>,
    columns: &'static str,
    rows: PhantomData<fn() -> R>,
}

impl<'a, DB, X: ?Sized, K, R> Reading<'a, DB, X, K, R> {
    pub(super) const fn new(on: OnRows<'a, DB, X, K>, columns: &'static str) -> Self {
        Self { on, columns, rows: PhantomData }
    }
}

impl<DB, X, K, R> Reading<'_, DB, X, K, R>
where
    DB: Backend,
    X: Transactor<DB> + ?Sized,
    K: RowKeys<Key: Key<DB> + Hash, Rows<R>: Send>,
    R: for<'r> FromRow<'r, DB::Row> + Send,
{
    /// Runs an async closure over the transaction and its rows, like
    /// [`TransactorExt::run`](crate::TransactorExt::run).
    ///
    /// # Errors
    ///
    /// [`RowNotFound`](crate::ErrorKind::RowNotFound) if a row does not exist
    /// ([`Error::missing_rows`] says which one), [`Decode`](crate::ErrorKind::Decode) if one cannot be
    /// decoded, and the errors of `run`.
    ///
    /// # Panics
    ///
    /// Panics if the closure panics, and outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time, like `run`.
    #[track_caller]
    pub fn run<F, T, E>(&self, unit: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: RowsFn<DB, K::Rows<R>, T, E>,
        E: UnitError + Send,
        T: Send,
    {
        let options = Options::new().started_at(Location::caller());
        async move {
            let rows = Arc::new(self.on.named_rows(Some(self.columns)));
            let mut unit = UnitWithRows {
                rows,
                keys: &self.on.keys,
                body: unit,
                output: UnitOutput::new(),
                read: PhantomData,
            };
            let ended = self.on.transact_on(&options, &mut unit).await;
            unit.output.end(ended)
        }
    }
}

/// Adapts a closure over rows to a unit, and keeps the output of its attempts.
struct UnitWithRows<'k, K: RowKeys, R, F, T, E> {
    rows: Arc<NamedRows<K::Key>>,
    keys: &'k K,
    body: F,
    output: UnitOutput<T, E>,
    read: PhantomData<fn() -> R>,
}

/// Reads the rows, in the order of the keys.
async fn read<DB, K, R>(rows: &NamedRows<K::Key>, keys: &K, tx: &mut Tx<DB>) -> Result<K::Rows<R>, Error>
where
    DB: Backend,
    K: RowKeys<Key: Key<DB>>,
    R: for<'r> FromRow<'r, DB::Row>,
{
    let found = rows.read(tx).await?;
    let row_of = |key| R::from_row(found.get(key).ok_or(sqlx::Error::RowNotFound)?);
    let rows: Vec<R> = rows.keys.iter().map(row_of).collect::<Result<_, _>>()?;
    Ok(keys.rows(rows).ok_or(sqlx::Error::RowNotFound)?)
}

#[async_trait]
impl<DB, K, R, F, T, E> Unit<DB> for UnitWithRows<'_, K, R, F, T, E>
where
    DB: Backend,
    K: RowKeys<Key: Key<DB>, Rows<R>: Send>,
    R: for<'r> FromRow<'r, DB::Row> + Send,
    F: RowsFn<DB, K::Rows<R>, T, E>,
    E: UnitError + Send,
    T: Send,
{
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let output = match read(&self.rows, self.keys, tx).await {
            Ok(rows) => (self.body.clone())(tx, rows).await,
            Err(error) => Err(error.into()),
        };
        self.output.store(output)
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.output.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.output.commit_was_found(attempt);
    }

    fn rows(&self) -> Option<Arc<dyn RowRequest<DB>>> {
        Some(self.rows.clone())
    }
}

impl<DB, X: ?Sized, K, R> fmt::Debug for Reading<'_, DB, X, K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("on", &self.on)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}
