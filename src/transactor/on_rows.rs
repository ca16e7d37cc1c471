//! Runs on rows that are locked and read in the round trip that opens the transaction.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Decision, Ended, Options, Transactor, Unit};
use crate::backend::{Backend, Key};
use crate::error::Error;
use crate::tx::{RowRequest, Tx};

mod keys;
mod named_rows;
mod reading;

pub use keys::RowKeys;
use named_rows::NamedRows;
pub use reading::Reading;

/// A transactor for runs on rows that are named before the unit runs, returned by
/// [`TransactorExt::on_rows`](super::TransactorExt::on_rows).
///
/// It is a [`Transactor`], so all calls of transactors work on it: `run`, `with`, `named`, `once`.
#[must_use = "nothing is run before `run`"]
pub struct OnRows<'a, DB, X: ?Sized, K> {
    transactor: &'a X,
    table: &'static str,
    column: &'static str,
    keys: K,
    database: PhantomData<fn() -> DB>,
}

impl<'a, DB: Backend, X: Transactor<DB> + ?Sized, K: RowKeys> OnRows<'a, DB, X, K> {
    pub(super) const fn new(transactor: &'a X, table: &'static str, column: &'static str, keys: K) -> Self {
        Self { transactor, table, column, keys, database: PhantomData }
    }

    /// Also reads these columns of the rows, in the same round trip, and passes the rows to the unit.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool, from: i64, to: i64) -> Result<(), Error> {
    /// let db = Pessimistic::default().on(&pool);
    /// db.on_rows("account", "id", [from, to])
    ///     .reading::<(i64, i64, i64)>("id, balance, version")
    ///     .run(async |tx, [from, to]| -> Result<_, Error> {
    ///         for ((id, balance, version), change) in [(from, -1), (to, 1)] {
    ///             let update = "UPDATE account SET balance = $1, version = version + 1 \
    ///                           WHERE id = $2 AND version = $3";
    ///             let update = sqlx::query(update).bind(balance + change).bind(id).bind(version);
    ///             tx.at_commit(update)?.expect_one();
    ///         }
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// `R` is any type that implements [`sqlx::FromRow`], for example by `#[derive(sqlx::FromRow)]`.
    ///
    /// The rows come in the order of the keys: an array for an array of keys, and a `Vec` otherwise. A key
    /// that occurs twice gets its row twice.
    ///
    /// The rows are read under every strategy. Under one that does not lock them, guard the writes with a
    /// version.
    ///
    /// `columns` becomes part of the statement as it is. On PostgreSQL, MySQL and MariaDB the values are
    /// transmitted as text, which every type of sqlx decodes that also works with
    /// [`sqlx::raw_sql`].
    pub fn reading<R>(self, columns: &'static str) -> Reading<'a, DB, X, K, R> {
        Reading::new(self, columns)
    }
}

impl<DB: Backend, X: Transactor<DB> + ?Sized, K: RowKeys<Key: Key<DB> + Hash>> OnRows<'_, DB, X, K> {
    /// Runs a unit under the name of its rows.
    async fn transact_on(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        let mut keys: Vec<&K::Key> = self.keys.keys().iter().collect();
        keys.sort_unstable();
        keys.dedup();
        let named = Options::new().on_key((self.table, self.column, keys));
        self.transactor.transact(&options.or(&named), unit).await
    }

    fn named_rows(&self, columns: Option<&'static str>) -> NamedRows<K::Key> {
        NamedRows { table: self.table, column: self.column, columns, keys: self.keys.keys().to_vec() }
    }
}

#[async_trait]
impl<DB, X, K> Transactor<DB> for OnRows<'_, DB, X, K>
where
    DB: Backend,
    X: Transactor<DB> + ?Sized,
    K: RowKeys<Key: Key<DB> + Hash>,
{
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        let rows = Arc::new(self.named_rows(None));
        let mut unit = UnitOnRows { rows, unit, error: None };
        let ended = self.transact_on(options, &mut unit).await?;
        match (ended, unit.error) {
            (Ended::RolledBack, Some(error)) => Err(error),
            (ended, _) => Ok(ended),
        }
    }
}

/// A unit that runs only if its rows exist.
struct UnitOnRows<'u, DB: Backend, K> {
    rows: Arc<NamedRows<K>>,
    unit: &'u mut dyn Unit<DB>,
    /// Why the last attempt did not run the unit.
    error: Option<Error>,
}

#[async_trait]
impl<DB: Backend, K: Key<DB>> Unit<DB> for UnitOnRows<'_, DB, K> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        self.error = self.rows.read(tx).await.err();
        match &self.error {
            None => self.unit.attempt(tx).await,
            // An earlier run or attempt may have deleted the rows and committed. The unit finds that out.
            Some(error) if self.unit.finds_its_commits() && !error.missing_rows().is_empty() => {
                let decision = self.unit.attempt(tx).await;
                if decision == Decision::Commit {
                    return Decision::RollBack;
                }
                self.error = None;
                decision
            }
            Some(_) => Decision::RollBack,
        }
    }

    fn finds_its_commits(&self) -> bool {
        self.unit.finds_its_commits()
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.unit.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.unit.commit_was_found(attempt);
    }

    fn rows(&self) -> Option<Arc<dyn RowRequest<DB>>> {
        Some(self.rows.clone())
    }
}

impl<DB, X: ?Sized, K> fmt::Debug for OnRows<'_, DB, X, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRows")
            .field("table", &self.table)
            .field("column", &self.column)
            .finish_non_exhaustive()
    }
}
