//! Many attempts: what runs units of work.

use std::fmt;
use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::future::BoxFuture;
use sqlx::{Pool, SqlStr};

use crate::backend::{Backend, WatchedQuery};
use crate::backoff::Backoff;
use crate::budget::RetryBudget;
use crate::error::Error;
use crate::gate::Gate;
use crate::observe::Observer;
use crate::policy::Strategy;
use crate::tx::{Handoff, Repeatable, Tx, TxFn, holds_connection_of, nested};

mod attempt;
#[cfg(test)]
mod fleet;
mod operation;
mod options;
mod resolve;
mod trial;

use attempt::until_done;
pub use options::Options;
use trial::{Alone, StatementTrial, UnitTrial, sending};

/// What can be run as one transaction, again and again until it commits.
///
/// The contract between a transactor and a unit of work; users write async closures, from which
/// [`TransactorExt::run`] makes one.
#[async_trait]
pub trait Unit<DB: Backend>: Send {
    /// Runs the unit once, on a transaction of its own, and says what it wants to become of it.
    ///
    /// May be called several times; nothing of one call may show in the next.
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Wish;

    /// Whether an attempt finds out by itself what became of an earlier one whose commit went unanswered, and keeps one
    /// that is still at work from being stored: by a row with a unique key, which each attempt writes first.
    ///
    /// Such a unit is run again after an unanswered commit, and says [`Wish::AlreadyStored`] when it finds it stored.
    fn finds_its_commits(&self) -> bool {
        false
    }
}

/// What a unit of work wants to become of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Wish {
    /// The unit returned `Ok`.
    Commit,
    /// The unit returned an error of its own.
    RollBack,
    /// The unit has its answer: nothing of this attempt is stored, and there is no other one, even if a statement met a
    /// failure that would be worth it.
    Stop,
    /// The unit found that an earlier attempt is stored, whose commit went unanswered: this one had nothing to do.
    AlreadyStored,
}

/// How a run ended that did what its unit wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Ended {
    /// The unit is stored.
    Committed,
    /// The unit's last attempt was rolled back, as the unit wished.
    RolledBack,
}

/// Runs units of work, each as one transaction, under a strategy.
///
/// This is the contract between transactors and the crate, object-safe so that an application can hold an
/// `Arc<dyn Transactor<DB>>` and choose the strategy at run time. Its users call [`TransactorExt::run`].
#[async_trait]
pub trait Transactor<DB: Backend>: Send + Sync {
    /// Runs the unit until it commits, ends with an error of its own, or may not be run again.
    ///
    /// What `options` ask for goes before what the transactor would do by itself.
    ///
    /// # Errors
    ///
    /// Why the unit did not commit, other than by its own wish.
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error>;
}

/// What users do with a [`Transactor`].
pub trait TransactorExt<DB: Backend>: Transactor<DB> {
    /// Runs an async closure as one transaction, and runs it again when concurrency got in its way.
    ///
    /// The closure's `Ok` commits, its `Err` rolls back and comes back as it is. Each attempt runs a fresh clone of the
    /// closure in a new transaction, so nothing leaks from one attempt into the next; a closure that changes what it
    /// captures does not compile. What it does *outside* of its transaction is done once per attempt.
    ///
    /// ```
    /// # use atomically::{Optimistic, TransactorExt};
    /// # async fn example(pool: &sqlx::SqlitePool) -> Result<(), atomically::Error> {
    /// let db = Optimistic::default().on(pool);
    /// let id = 7;
    /// let stock: i64 = db
    ///     .run(async |tx| {
    ///         let (stock, version): (i64, i64) = sqlx::query_as("SELECT stock, version FROM product WHERE id = $1")
    ///             .bind(id)
    ///             .fetch_one(&mut *tx)
    ///             .await?;
    ///         let done = sqlx::query("UPDATE product SET stock = $1, version = version + 1 WHERE id = $2 AND version = $3")
    ///             .bind(stock - 1)
    ///             .bind(id)
    ///             .bind(version)
    ///             .execute(&mut *tx)
    ///             .await?;
    ///         tx.expect_one(done.rows_affected())?;
    ///         Ok::<_, atomically::Error>(stock - 1)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The closure's own error; or this crate's, turned into the closure's error type, when the database or the
    /// deadline stood in the way.
    ///
    /// # Panics
    ///
    /// When the closure does; the transaction is rolled back. Also outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. Before the commit was sent, nothing is stored and the connection is closed; a commit
    /// that was sent is finished in the background.
    #[track_caller]
    fn run<F, T, E>(&self, unit: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Repeatable
            + for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
            + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>,
        E: From<Error> + Send,
        T: Send;

    /// The same transactor with other options, for a run or two.
    fn with(&self, options: Options) -> With<'_, Self>;

    /// The same transactor for runs that contend for this: a row, a tenant, whatever many units want at once.
    ///
    /// They wait for each other at the transactor's [`Gate`], in the order in which they came, before they take a
    /// connection. [`Adaptive`](crate::Adaptive) learns about it. The key means nothing to the database; any hashable
    /// value will do.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// let db = Pessimistic::default().on(&pool);
    /// let id = 7;
    /// db.on_key(("event", id))
    ///     .run(async |tx| {
    ///         let sql = tx.for_update("SELECT seats FROM event WHERE id = $1");
    ///         let seats: i64 = sqlx::query_scalar(sql).bind(id).fetch_one(&mut *tx).await?;
    ///         sqlx::query("UPDATE event SET seats = $1 WHERE id = $2")
    ///             .bind(seats - 1)
    ///             .bind(id)
    ///             .execute(&mut *tx)
    ///             .await?;
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    fn on_key(&self, key: impl Hash) -> With<'_, Self>;

    /// The same transactor for runs of a unit that is called this in logs, metrics and reports of deadlocks.
    ///
    /// ```
    /// # use atomically::{Error, Optimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// let db = Optimistic::default().on(&pool);
    /// db.named("checkout").run(async |tx| {
    ///     sqlx::query("UPDATE product SET stock = stock - 1").execute(&mut *tx).await?;
    ///     Ok::<_, Error>(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Why a `&'static str`?
    ///
    /// Each name is a time series of its own, for as long as the process lives. Names that are put together at run time,
    /// from ids say, would be as many as there are ids.
    fn named(&self, name: &'static str) -> With<'_, Self>;
}

impl<DB: Backend, X: Transactor<DB> + ?Sized> TransactorExt<DB> for X {
    #[track_caller]
    fn run<F, T, E>(&self, unit: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Repeatable
            + for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
            + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>,
        E: From<Error> + Send,
        T: Send,
    {
        let options = Options::new().started_at(Location::caller());
        async move {
            let mut unit = Closure { body: unit, output: None };
            let ended = self.transact(&options, &mut unit).await;
            match (ended, unit.output) {
                (Ok(Ended::Committed), Some(Ok(value))) => Ok(value),
                (Ok(Ended::RolledBack), Some(Err(error))) => Err(error),
                (Err(error), _) => Err(error.into()),
                (Ok(_), _) => Err(Error::transactor_broke_its_contract().into()),
            }
        }
    }

    fn with(&self, options: Options) -> With<'_, Self> {
        With { transactor: self, options }
    }

    fn on_key(&self, key: impl Hash) -> With<'_, Self> {
        self.with(Options::new().on_key(key))
    }

    fn named(&self, name: &'static str) -> With<'_, Self> {
        self.with(Options::new().named(name))
    }
}

/// A transactor that is asked for something: what [`TransactorExt::with`] gives.
#[derive(Debug)]
pub struct With<'a, X: ?Sized> {
    transactor: &'a X,
    options: Options,
}

impl<DB: Backend, S: Strategy> With<'_, PoolTransactor<DB, S>> {
    /// One statement as its own transaction; answers how many rows it touched.
    pub(crate) async fn run_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        self.transactor.clone().options(self.options.clone()).run_statement(query).await
    }
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for With<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        self.transactor.transact(&options.or(&self.options), unit).await
    }
}

/// A closure as a unit, with the output of its last attempt.
struct Closure<F, T, E> {
    body: F,
    output: Option<Result<T, E>>,
}

#[async_trait]
impl<DB, F, T, E> Unit<DB> for Closure<F, T, E>
where
    DB: Backend,
    F: Repeatable
        + for<'t> AsyncFnOnce(&'t mut Tx<DB>) -> Result<T, E>
        + for<'t> TxFn<&'t mut Tx<DB>, Result<T, E>, Fut: Send>,
    E: Send,
    T: Send,
{
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Wish {
        self.output = None;
        let output = (self.body.clone())(tx).await;
        let wish = if output.is_ok() { Wish::Commit } else { Wish::RollBack };
        self.output = Some(output);
        wish
    }
}

/// A strategy bound to a pool: the transactor that applications use.
///
/// Made by the `on` of a strategy (`Pessimistic::default().on(&pool)`), or by [`new`](Self::new) for one of your own.
/// Cloning is cheap, and clones share the pool and the gate.
///
/// # Default
///
/// - attempts: 50, the first included
/// - deadline: 10 s for all attempts together; it is what normally ends a unit
/// - backoff: [`Backoff::default`]
///
/// # The pool
///
/// sqlx tests a connection each time it leaves the pool
/// ([`test_before_acquire`](sqlx::pool::PoolOptions::test_before_acquire)), and again each time it comes back, which
/// nothing turns off. Most of these round trips are left out here.
///
/// - *A connection is handed on.* When a run has ended well, its connection goes straight to the run of this transactor, or
///   of a clone, that has waited longest for one; or, if none waits, to the next one that the same task begins right away.
///   Else it goes back to the pool; so it does after 16 runs in a row, or 50 ms, for the pool's other users, its
///   `max_lifetime` and its `idle_timeout`. Who waits here also waits for the pool, and takes what comes first.
/// - *An idle connection is not tested*: a BEGIN that meets a dead connection has done nothing and is sent on another one,
///   without counting as an attempt. Who has to wait until the pool has one gets it from sqlx, tested, unless the pool says
///   `test_before_acquire(false)`.
///
/// The pool's callbacks `before_acquire` and `after_release` are not called for what does not pass by it: the first one
/// neither for an idle connection, unless the pool says `test_before_acquire(false)`. If yours has one of them that has to be called
/// each time, say [`run_before_acquire`](Self::run_before_acquire).
pub struct PoolTransactor<DB: Backend, S> {
    pool: Pool<DB>,
    strategy: Arc<S>,
    gate: Gate,
    options: Options,
    handoff: Handoff<DB>,
}

impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Binds a strategy to a pool.
    #[must_use]
    pub fn new(strategy: S, pool: &Pool<DB>) -> Self {
        Self {
            pool: pool.clone(),
            strategy: Arc::new(strategy),
            gate: Gate::new(),
            options: Options::default(),
            handoff: Handoff::on(),
        }
    }

    /// Asks for this in every run, in place of what was asked for before.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options.or(&self.options);
        self
    }

    /// How many attempts a unit gets: [`Options::attempts`].
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        self.options(Options::new().attempts(attempts))
    }

    /// How long a unit may take: [`Options::deadline`].
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        self.options(Options::new().deadline(deadline))
    }

    /// The delays between attempts: [`Options::backoff`].
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.options(Options::new().backoff(backoff))
    }

    /// What further attempts are paid from: [`Options::retry_budget`].
    #[must_use]
    pub fn retry_budget(self, budget: &RetryBudget) -> Self {
        self.options(Options::new().retry_budget(budget))
    }

    /// Tells this observer what happens to the units: besides those that it was given before, and those of a run's own
    /// options.
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(Arc::new(observer)))
    }

    /// Has runs that name a key wait at this gate, which others may share, instead of at one of its own.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.gate = gate.clone();
        self
    }

    /// Has each run take its connection from the pool, and give it back to it: with its tests, at the price of a round trip
    /// or two, and with its callbacks `before_acquire` and `after_release`.
    #[must_use]
    pub fn run_before_acquire(mut self) -> Self {
        self.handoff = Handoff::off();
        self
    }

    /// The pool that the transactor takes its connections from.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }
}

impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// One statement as its own transaction; answers how many rows it touched.
    pub(crate) async fn run_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        let (sql, nowait) = (query.text(), query.asks_nowait());
        self.run_alone(Some(sql), nowait, sending(&self.options, query)).await
    }

    /// What is its own transaction without BEGIN and COMMIT, on a connection of the pool. Interceptors do not see it, and
    /// observers not its statements.
    pub(crate) async fn run_on_connection<T: Send>(
        &self,
        run: impl for<'c> Fn(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
    ) -> Result<T, Error> {
        self.run_alone(None, false, |connection, _| run(connection)).await
    }

    async fn run_alone<R, T>(&self, sql: Option<SqlStr>, nowait: bool, run: R) -> Result<T, Error>
    where
        R: for<'c> Fn(&'c mut DB::Connection, u32) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
        T: Send,
    {
        self.refuse_nesting()?;
        let alone = Alone { pool: &self.pool, handoff: &self.handoff, sql, nowait };
        let mut statement = StatementTrial::new(alone, run);
        until_done(&*self.strategy, &self.gate, &self.options, &mut statement).await
    }

    /// Before anything is waited for: it would be waited for in vain.
    fn refuse_nesting(&self) -> Result<(), Error> {
        if holds_connection_of(&self.pool) { Err(Error::failed(nested(), None)) } else { Ok(()) }
    }
}

#[async_trait]
impl<DB: Backend, S: Strategy> Transactor<DB> for PoolTransactor<DB, S> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        self.refuse_nesting()?;
        let options = options.or(&self.options);
        let mut unit = UnitTrial::new(&self.pool, &self.handoff, &options, unit);
        until_done(&*self.strategy, &self.gate, &options, &mut unit).await
    }
}

// Not derived: that would ask for `DB: Clone`.
impl<DB: Backend, S> Clone for PoolTransactor<DB, S> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            strategy: self.strategy.clone(),
            gate: self.gate.clone(),
            options: self.options.clone(),
            handoff: self.handoff.clone(),
        }
    }
}

impl<DB: Backend, S: Strategy> fmt::Debug for PoolTransactor<DB, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolTransactor")
            .field("database", &DB::NAME)
            .field("strategy", &self.strategy)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

// Applications hold transactors as `Arc<dyn Transactor<DB>>`.
#[cfg(test)]
fn _object_safe<DB: Backend>(_: &dyn Transactor<DB>, _: &dyn Unit<DB>) {}
