//! A strategy bound to a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::future::BoxFuture;
use sqlx::{Pool, SqlStr};

use super::attempt::until_done;
use super::lone::{self, Sent};
use super::trial::{Alone, Sending, StatementTrial, UnitTrial, sending};
use super::{Ended, Options, Transactor, Unit};
use crate::backend::{Backend, WatchedQuery};
use crate::backoff::Backoff;
use crate::budget::RetryBudget;
use crate::error::Error;
use crate::gate::Gate;
use crate::observe::Observer;
use crate::policy::Strategy;
use crate::tx::{Handoff, holds_connection_of, nested};

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
///   of a clone, that has waited longest for one; or, if none waits, to the next one, if that begins right away.
///   Else it goes back to the pool; so it does after 32 runs in a row, or 50 ms, for the pool's other users, its
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
        self.send_alone(query, Sent::AsOftenAsItTakes).await
    }

    /// The same for a statement of the caller's, which may be anything.
    pub(crate) async fn apply_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        let sent = lone::check(&query)?;
        self.send_alone(query, sent).await
    }

    async fn send_alone(&self, query: WatchedQuery<DB>, sent: Sent) -> Result<u64, Error> {
        let (sql, nowait) = (query.text(), query.asks_nowait());
        self.run_alone(sql, nowait, sent, sending(&self.options, query)).await
    }

    /// What is its own transaction without BEGIN and COMMIT, on a connection of the pool, with what the server may be told of
    /// the time that is left; `sql` is what is said of it. Interceptors do not see it.
    pub(crate) async fn run_on_connection<T: Send>(
        &self,
        sql: SqlStr,
        run: impl for<'c> Fn(&'c mut DB::Connection, Duration) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + Sync,
    ) -> Result<T, Error> {
        self.run_alone(sql, false, Sent::AsOftenAsItTakes, |connection, sending| {
            run(connection, sending.limit)
        })
        .await
    }

    async fn run_alone<R, T>(&self, sql: SqlStr, nowait: bool, sent: Sent, run: R) -> Result<T, Error>
    where
        R: for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
        T: Send,
    {
        self.refuse_nesting()?;
        let alone = Alone { pool: &self.pool, handoff: &self.handoff, sql, nowait, sent };
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
