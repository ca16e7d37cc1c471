//! The convenience methods of transactors: closures as units, and options for single runs.

use std::hash::Hash;
use std::panic::Location;

use async_trait::async_trait;

use super::output::UnitOutput;
use super::{Decision, Ended, OnRows, Options, PoolTransactor, RowKeys, Transactor, Unit};
use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::strategy::Strategy;
use crate::tx::{Tx, UnitError, UnitFn};

/// The methods that applications call on a [`Transactor`].
pub trait TransactorExt<DB: Backend>: Transactor<DB> {
    /// Runs an async closure as one transaction, and retries it after conflicts with other transactions.
    ///
    /// If the closure returns `Ok`, the transaction commits. If it returns `Err`, the transaction rolls
    /// back and the error is returned unchanged, unless a retryable failure of the database caused it. Each
    /// attempt runs a fresh clone of the closure in a new transaction, so no state leaks from one attempt
    /// into the next; a closure that mutates what it captures does not compile. Effects *outside* of the
    /// transaction happen once per attempt.
    ///
    /// ```
    /// # use atomically::{Optimistic, TransactorExt};
    /// # async fn example(pool: &sqlx::SqlitePool) -> Result<(), atomically::Error> {
    /// let db = Optimistic::default().on(pool);
    /// let id = 7;
    /// let stock: i64 = db
    ///     .run(async |tx| -> Result<_, atomically::Error> {
    ///         let select = "SELECT stock, version FROM product WHERE id = $1";
    ///         let (stock, version): (i64, i64) =
    ///             sqlx::query_as(select).bind(id).fetch_one(&mut *tx).await?;
    ///         let update = "UPDATE product SET stock = $1, version = version + 1 \
    ///                       WHERE id = $2 AND version = $3";
    ///         let done = sqlx::query(update)
    ///             .bind(stock - 1)
    ///             .bind(id)
    ///             .bind(version)
    ///             .execute(&mut *tx)
    ///             .await?;
    ///         tx.expect_one(done.rows_affected())?;
    ///         Ok(stock - 1)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # The error type
    ///
    /// The closure returns any error type that [holds the errors of this crate](UnitError). If `?` follows
    /// `run`, the compiler cannot infer the type ("type annotations needed"). Name it at the head of the
    /// closure, as above: `async |tx| -> Result<_, Error> { … }`.
    ///
    /// # Errors
    ///
    /// Returns the closure's own error. If the database or the deadline kept the unit from committing,
    /// returns an error of this crate, converted to the closure's error type.
    ///
    /// # Panics
    ///
    /// Panics if the closure panics; the transaction is rolled back. Panics outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. If COMMIT has not been sent, nothing is stored and the connection is
    /// closed; otherwise the commit and its hooks are finished in the background.
    #[track_caller]
    fn run<F, T, E>(&self, unit: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: UnitFn<DB, T, E>,
        E: UnitError + Send,
        T: Send;

    /// Returns this transactor with `options` overriding its own.
    fn with(&self, options: Options) -> With<'_, Self>;

    /// Returns this transactor for runs that contend for `key`: a row, a tenant, or anything else that many
    /// units want at once.
    ///
    /// Runs with the same key wait for each other at the transactor's [`Gate`](crate::Gate), in the order
    /// of their arrival, before they acquire a connection. [`Adaptive`](crate::Adaptive) learns per key.
    /// The key has no meaning to the database; any hashable value will do.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// let db = Pessimistic::default().on(&pool);
    /// let id = 7;
    /// db.on_key(("event", id))
    ///     .run(async |tx| -> Result<_, Error> {
    ///         let sql = tx.for_update("SELECT seats FROM event WHERE id = $1");
    ///         let seats: i64 = sqlx::query_scalar(sql).bind(id).fetch_one(&mut *tx).await?;
    ///         sqlx::query("UPDATE event SET seats = $1 WHERE id = $2")
    ///             .bind(seats - 1)
    ///             .bind(id)
    ///             .execute(&mut *tx)
    ///             .await?;
    ///         Ok(())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    fn on_key(&self, key: impl Hash) -> With<'_, Self>;

    /// Returns this transactor for runs on the rows of `table` whose `column` has these keys. The rows are
    /// locked in the round trip that opens the transaction.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool, from: i64, to: i64) -> Result<(), Error> {
    /// let db = Pessimistic::default().on(&pool);
    /// db.on_rows("account", "id", [from, to])
    ///     .run(async |tx| -> Result<_, Error> {
    ///         let update = "UPDATE account SET balance = balance + $1 WHERE id = $2";
    ///         tx.at_commit(sqlx::query(update).bind(-1_i64).bind(from))?.expect_one();
    ///         tx.at_commit(sqlx::query(update).bind(1_i64).bind(to))?.expect_one();
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// - The rows are locked in the order of the column, so such units do not deadlock with each other.
    /// - Together they are the run's key, as if passed to [`on_key`](Self::on_key): runs with the same rows
    ///   queue at the gate, and [`Adaptive`](crate::Adaptive) learns about them. A call of `on_key` on the
    ///   result replaces it.
    /// - If a row does not exist, the run fails with [`RowNotFound`](crate::ErrorKind::RowNotFound) before
    ///   the unit runs; [`Error::missing_rows`] says which one. A unit with an idempotency key runs first,
    ///   because an earlier run of it may have deleted the row.
    /// - [`reading`](OnRows::reading) also passes columns of the rows to the unit.
    /// - [`Tx::at_commit`] sends the writes together with COMMIT, so that a transfer takes two round trips
    ///   and holds its locks for one: [`guide::distance`](crate::guide::distance).
    ///
    /// # What each strategy does
    ///
    /// | strategy | rows |
    /// |---|---|
    /// | [`Pessimistic`](crate::Pessimistic), [`Adaptive`](crate::Adaptive) on hot keys | locked and read |
    /// | [`Optimistic`](crate::Optimistic), [`Atomic`](crate::Atomic), otherwise `Adaptive` | only read |
    /// | [`Serializable`](crate::Serializable) | read if [`reading`](OnRows::reading) is called |
    ///
    /// In a read-only transaction the rows are never locked. On SQLite, `Pessimistic` locks the whole
    /// database with `BEGIN IMMEDIATE`.
    ///
    /// # Round trips
    ///
    /// On PostgreSQL, MySQL and MariaDB, BEGIN and the lock are one round trip, unless the type of the keys
    /// is none of those that [`at_commit`](Tx::at_commit) supports. On SQLite, on a Galera cluster and under
    /// the test kit, the rows are locked and read by a statement of their own after BEGIN.
    ///
    /// `table` and `column` become part of the statement as they are. At most 32 000 keys are supported.
    /// The type of the keys must be the one that sqlx decodes the column as, as for
    /// [`lock_rows`](Tx::lock_rows).
    fn on_rows<K: RowKeys>(
        &self,
        table: &'static str,
        column: &'static str,
        keys: K,
    ) -> OnRows<'_, DB, Self, K>;

    /// Returns this transactor for runs of a unit that has this name in logs, metrics and deadlock reports.
    ///
    /// ```
    /// # use atomically::{Error, Optimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// let db = Optimistic::default().on(&pool);
    /// db.named("checkout").run(async |tx| -> Result<_, Error> {
    ///     sqlx::query("UPDATE product SET stock = stock - 1").execute(&mut *tx).await?;
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Why a `&'static str`?
    ///
    /// Each name is a time series of its own in the metrics, for the lifetime of the process. Names that are
    /// composed at run time, for example from ids, would create one time series per id.
    fn named(&self, name: &'static str) -> With<'_, Self>;
}

impl<DB: Backend, X: Transactor<DB> + ?Sized> TransactorExt<DB> for X {
    #[track_caller]
    fn run<F, T, E>(&self, unit: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: UnitFn<DB, T, E>,
        E: UnitError + Send,
        T: Send,
    {
        let options = Options::new().started_at(Location::caller());
        async move {
            let mut unit = Closure { body: unit, output: UnitOutput::new() };
            let ended = self.transact(&options, &mut unit).await;
            unit.output.end(ended)
        }
    }

    fn with(&self, options: Options) -> With<'_, Self> {
        With { transactor: self, options }
    }

    fn on_key(&self, key: impl Hash) -> With<'_, Self> {
        self.with(Options::new().on_key(key))
    }

    fn on_rows<K: RowKeys>(
        &self,
        table: &'static str,
        column: &'static str,
        keys: K,
    ) -> OnRows<'_, DB, Self, K> {
        OnRows::new(self, table, column, keys)
    }

    fn named(&self, name: &'static str) -> With<'_, Self> {
        self.with(Options::new().named(name))
    }
}

/// A transactor with overriding options, returned by [`TransactorExt::with`].
#[derive(Debug)]
pub struct With<'a, X: ?Sized> {
    transactor: &'a X,
    options: Options,
}

impl<DB: Backend, S: Strategy> With<'_, PoolTransactor<DB, S>> {
    /// Runs one statement of the caller as its own transaction, and returns how many rows it affected.
    pub(crate) async fn apply_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        self.transactor.clone().options(self.options.clone()).apply_statement(query).await
    }
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for With<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        self.transactor.transact(&options.or(&self.options), unit).await
    }
}

/// Adapts a closure to a unit, and keeps the output of its attempts.
struct Closure<F, T, E> {
    body: F,
    output: UnitOutput<T, E>,
}

#[async_trait]
impl<DB, F, T, E> Unit<DB> for Closure<F, T, E>
where
    DB: Backend,
    F: UnitFn<DB, T, E>,
    E: Send,
    T: Send,
{
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let output = (self.body.clone())(tx).await;
        self.output.store(output)
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.output.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.output.commit_was_found(attempt);
    }
}
