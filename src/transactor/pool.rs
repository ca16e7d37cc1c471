//! A strategy bound to a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{Pool, SqlStr};

use super::atomicity::{self, Atomicity};
use super::attempt::{Sending, StatementAttempts, StatementTarget, UnitAttempts, sending};
use super::deadlock_queue::DeadlockQueue;
use super::retry::run_with_retries;
use super::statement_unit::StatementUnit;
use super::waiting::WaitingQueues;
use super::{Ended, Options, Transactor, Unit};
use crate::backend::{Backend, Engine, WatchedQuery};
use crate::backoff::Backoff;
use crate::boxed::boxed;
use crate::error::Error;
use crate::events::{Event, Observer};
use crate::gate::Gate;
use crate::intercept::StatementAnswer;
use crate::retry_budget::RetryBudget;
use crate::schema::Schema;
use crate::strategy::Strategy;
use crate::tx::{ConnectionReuse, EngineCache, engine_of, holds_connection_of, nested};

/// A strategy bound to a pool: the transactor that applications use.
///
/// Created by a strategy's `on` method (`Pessimistic::default().on(&pool)`), or by [`new`](Self::new) for a
/// strategy of your own. Cloning is cheap; clones share the pool and the gate.
///
/// # Default
///
/// - attempts: 50, the first included
/// - deadline: 10 s for all attempts together, which normally expires before the attempts are used up
/// - backoff: [`Backoff::default`]
/// - connections: each run acquires one from the pool and releases it to the pool. See
///   [`reuse_connections`](Self::reuse_connections) for a faster way
pub struct PoolTransactor<DB: Backend, S> {
    pool: Pool<DB>,
    strategy: Arc<S>,
    gate: Gate,
    deadlocked: DeadlockQueue,
    options: Options,
    reuse: ConnectionReuse<DB>,
}

impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Binds a strategy to a pool.
    #[must_use]
    pub fn new(strategy: S, pool: &Pool<DB>) -> Self {
        Self {
            pool: pool.clone(),
            strategy: Arc::new(strategy),
            gate: Gate::new(),
            deadlocked: DeadlockQueue::default(),
            options: Options::default(),
            reuse: ConnectionReuse::off(),
        }
    }

    /// Sets options for every run, overriding those that were set before.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options.or(&self.options);
        self
    }

    /// Sets the maximum number of attempts: [`Options::attempts`].
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Self {
        self.options(Options::new().attempts(attempts))
    }

    /// Sets the time limit of a run: [`Options::deadline`].
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        self.options(Options::new().deadline(deadline))
    }

    /// Sets the delays between attempts: [`Options::backoff`].
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.options(Options::new().backoff(backoff))
    }

    /// Limits retries with a budget that is shared across runs: [`Options::retry_budget`].
    #[must_use]
    pub fn retry_budget(self, budget: &RetryBudget) -> Self {
        self.options(Options::new().retry_budget(budget))
    }

    /// Adds an observer of every run, in addition to earlier ones and to those in a run's own options.
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(observer))
    }

    /// Sets the gate at which runs with a key wait. Transactors with the same gate share its queues; by
    /// default each transactor has a gate of its own.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.gate = gate.clone();
        self
    }

    /// Lets runs reuse a connection that another run of this transactor, or of a clone, has just released,
    /// instead of passing it through the pool. Saves one or two round trips per run under load.
    ///
    /// Between two runs, sqlx's pool pings a connection twice: in a background task when it is released,
    /// and again when it is acquired. Right after a run that ended cleanly, both pings are redundant. With
    /// reuse:
    ///
    /// - A connection is passed to the run that has waited longest for one, or to the next run if that begins
    ///   right away. It is returned to the pool after 32 runs or 50 ms, whichever comes first, so that other
    ///   users of the pool are not starved and its `max_lifetime` and `idle_timeout` still apply. A run that
    ///   waits for a connection also waits in the pool's queue, and takes whichever connection comes first.
    /// - An idle connection is acquired without a ping. If it is dead, BEGIN fails without an effect and is
    ///   sent on another connection, which does not count as an attempt.
    ///
    /// # Why not by default?
    ///
    /// The pool's callbacks are not called for a connection that does not pass through it, and sqlx does not
    /// say whether a pool has any. If `before_acquire` sets a tenant or a role, a run would see the rows of
    /// the previous run's tenant. Enable reuse if your pool has no such callbacks, or if they set nothing
    /// that differs from run to run.
    #[must_use]
    pub fn reuse_connections(mut self) -> Self {
        self.reuse = ConnectionReuse::on();
        self
    }

    /// Acquires every connection from the pool and releases it to the pool, so that its health checks and
    /// callbacks apply to every run. This is the default; it undoes
    /// [`reuse_connections`](Self::reuse_connections).
    #[must_use]
    pub fn always_through_pool(mut self) -> Self {
        self.reuse = ConnectionReuse::off();
        self
    }

    /// Returns the pool that the transactor acquires its connections from.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// Returns which product and version runs behind the pool, and what it supports.
    ///
    /// The server is queried on the first use of a pool in this process, by this method or by the first unit;
    /// later calls return what is known. A connection to a server of another version, or other options of the
    /// pool, make the crate query again.
    ///
    /// # Errors
    ///
    /// Returns why the server could not be reached within the [deadline](Options::deadline).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn engine(&self) -> Result<Engine, Error> {
        let cache = EngineCache::of(&self.pool);
        if let Some(engine) = cache.latest(DB::ENGINE_LIFETIME) {
            return Ok(engine);
        }
        let sql = SqlStr::from_static(DB::ENGINE_QUERY.sql);
        let options = self.options.for_queries_about_the_server();
        let unobserved = Self { options, ..self.clone() };
        unobserved
            .run_on_connection(sql, |connection, _| {
                let (cache, pool) = (cache.clone(), self.pool.clone());
                Box::pin(async move { engine_of(&cache, &pool, connection).await })
            })
            .await
    }
}

impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Runs one statement of the crate as its own transaction, and returns how many rows it affected.
    pub(crate) async fn run_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        self.send_alone(query, Atomicity::Whole).await
    }

    /// Runs one statement of the crate as its own transaction, and returns its rows. The settings of the
    /// options are not set: a caller for whom they matter checks
    /// [`has_local_settings`](Self::has_local_settings).
    pub(crate) async fn fetch_alone(&self, query: WatchedQuery<DB>) -> Result<Vec<DB::Row>, Error> {
        let (sql, nowait) = (query.text(), query.has_nowait());
        let answer = |rows: &Vec<DB::Row>| StatementAnswer::read(rows.len());
        let run = sending(&self.options, query, answer, DB::fetch_or_ping);
        self.run_alone(sql, nowait, Atomicity::Whole, run).await
    }

    /// Runs one statement of the caller as its own transaction, if its text allows that.
    pub(crate) async fn apply_statement(&self, query: WatchedQuery<DB>) -> Result<u64, Error> {
        let atomicity = atomicity::check(&query)?;
        self.send_alone(query, atomicity).await
    }

    /// Returns whether the options have settings or a role, which need a transaction.
    pub(crate) fn has_local_settings(&self) -> bool {
        self.options.local_settings().is_some()
    }

    /// Runs one statement in a transaction that has the settings of the options.
    async fn send_in_transaction(&self, query: WatchedQuery<DB>, atomicity: Atomicity) -> Result<u64, Error> {
        atomicity::check_for_transaction(atomicity)?;
        let mut unit = StatementUnit::new(query);
        let ended = self.transact(&Options::new(), &mut unit).await?;
        unit.end(ended)
    }

    async fn send_alone(&self, query: WatchedQuery<DB>, atomicity: Atomicity) -> Result<u64, Error> {
        if self.has_local_settings() {
            return self.send_in_transaction(query, atomicity).await;
        }
        let (sql, nowait) = (query.text(), query.has_nowait());
        let answer = |rows: &u64| StatementAnswer::affected(*rows);
        let run = sending(&self.options, query, answer, DB::run_statement);
        self.run_alone(sql, nowait, atomicity, run).await
    }

    /// Runs `run` on a connection of the pool, as its own transaction without BEGIN and COMMIT. `run`
    /// receives the time limit for the server. Observers see `sql`; interceptors see nothing. The settings of
    /// the options are not set: a caller for whom they matter checks
    /// [`has_local_settings`](Self::has_local_settings).
    pub(crate) async fn run_on_connection<T: Send>(
        &self,
        sql: SqlStr,
        run: impl for<'c> Fn(&'c mut DB::Connection, Duration) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + Sync,
    ) -> Result<T, Error> {
        self.run_alone(sql, false, Atomicity::Whole, |connection, sending| run(connection, sending.limit))
            .await
    }

    async fn run_alone<R, T>(
        &self,
        sql: SqlStr,
        nowait: bool,
        atomicity: Atomicity,
        run: R,
    ) -> Result<T, Error>
    where
        R: for<'c> Fn(&'c mut DB::Connection, Sending) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
        T: Send,
    {
        self.refuse_nesting()?;
        let target = StatementTarget { pool: &self.pool, reuse: &self.reuse, sql, nowait, atomicity };
        let mut statement = StatementAttempts::new(target, run);
        run_with_retries(&*self.strategy, self.waiting_queues(), &self.options, &mut statement).await
    }

    /// Returns whether the options have observers.
    pub(crate) fn is_observed(&self) -> bool {
        !self.options.observers().is_empty()
    }

    /// Notifies the observers of the options, and writes to the log.
    pub(crate) fn notify(&self, event: &Event<'_>) {
        self.options.observers().notify_and_log(event);
    }

    /// Returns the schema of the options, which has the names of the crate's tables.
    pub(crate) fn schema(&self) -> Schema {
        self.options.tables()
    }

    pub(super) const fn waiting_queues(&self) -> WaitingQueues<'_> {
        WaitingQueues { gate: &self.gate, deadlocked: Some(&self.deadlocked) }
    }

    /// Returns this transactor on another pool.
    pub(super) fn on_another(&self, pool: &Pool<DB>) -> Self {
        let reuse = if self.reuse.is_on() { ConnectionReuse::on() } else { ConnectionReuse::off() };
        Self { pool: pool.clone(), reuse, ..self.clone() }
    }

    pub(super) fn strategy(&self) -> &S {
        &self.strategy
    }

    pub(super) const fn reuse(&self) -> &ConnectionReuse<DB> {
        &self.reuse
    }

    /// Returns the options of a run, which override the transactor's own.
    pub(super) fn options_of_run(&self, options: &Options) -> Options {
        options.or(&self.options)
    }

    /// Returns this transactor with another strategy.
    pub(super) fn under<T: Strategy>(&self, strategy: T) -> PoolTransactor<DB, T> {
        PoolTransactor {
            pool: self.pool.clone(),
            strategy: Arc::new(strategy),
            gate: self.gate.clone(),
            options: self.options.clone(),
            reuse: self.reuse.clone(),
            deadlocked: self.deadlocked.clone(),
        }
    }

    /// Returns a transactor for the crate's own work on its tables.
    pub(super) fn for_upkeep<T: Strategy>(&self, strategy: T) -> PoolTransactor<DB, T> {
        let options = self.options.for_upkeep();
        PoolTransactor { options, ..self.under(strategy) }
    }

    /// Fails if the caller is a unit of work on the same pool, because it would wait for its own connection.
    pub(super) fn refuse_nesting(&self) -> Result<(), Error> {
        if holds_connection_of(&self.pool) { Err(Error::failed(nested(), None)) } else { Ok(()) }
    }
}

impl<DB: Backend, S: Strategy> Transactor<DB> for PoolTransactor<DB, S> {
    // Without `async_trait`, which would copy the future, the largest of a run, to the heap.
    fn transact<'s, 'o, 'u, 'f>(
        &'s self,
        options: &'o Options,
        unit: &'u mut dyn Unit<DB>,
    ) -> BoxFuture<'f, Result<Ended, Error>>
    where
        Self: 'f,
        's: 'f,
        'o: 'f,
        'u: 'f,
    {
        boxed(|| async move {
            self.refuse_nesting()?;
            let options = self.options_of_run(options);
            let mut unit = UnitAttempts::new(&self.pool, &self.reuse, &options, unit);
            run_with_retries(&*self.strategy, self.waiting_queues(), &options, &mut unit).await
        })
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend, S> Clone for PoolTransactor<DB, S> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            strategy: self.strategy.clone(),
            gate: self.gate.clone(),
            deadlocked: self.deadlocked.clone(),
            options: self.options.clone(),
            reuse: self.reuse.clone(),
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
