//! The options of a transactor, or of a single run.

use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::digest::digest;
use crate::events::Observer;
#[cfg(feature = "testing")]
use crate::intercept::Interceptor;
use crate::intercept::Interceptors;
use crate::isolation::{Access, Begin, Isolation};
use crate::local_settings::LocalSettings;
use crate::retry_budget::RetryBudget;
use crate::schema::Schema;
use crate::strategy::Resolve;
use crate::telemetry::Observers;

mod identity;
mod local;
mod merge;
mod settings;

pub(super) use identity::UnitIdentity;

/// Settings for running units of work: limits, timeouts and overrides of the strategy's plan.
///
/// Set them for a transactor with [`PoolTransactor::options`](crate::PoolTransactor::options), or for
/// single runs with [`TransactorExt::with`](crate::TransactorExt::with). An option that is not set falls
/// back to the transactor's, and then to the default.
///
/// ```
/// # use atomically::{Error, Options, Optimistic, TransactorExt as _};
/// # use std::time::Duration;
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let db = Optimistic::default().on(&pool);
/// let report = Options::new().read_only().deadline(Duration::from_secs(60));
/// let rows: i64 = db
///     .with(report)
///     .run(async |tx| -> Result<_, Error> {
///         let count = sqlx::query_scalar("SELECT COUNT(*) FROM product");
///         Ok(count.fetch_one(&mut *tx).await?)
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// Options for the database are sent in the round trip that opens the transaction, and end with it. An
/// option that the database does not support fails the run with
/// [`Unsupported`](crate::ErrorKind::Unsupported) before the unit runs; it is never silently ignored.
///
/// # Support by database
///
/// | | PostgreSQL | MySQL, MariaDB | SQLite |
/// |---|---|---|---|
/// | isolation | all four | all four | all four, by being serializable |
/// | read-only | yes | yes | yes |
/// | deferrable | serializable and read-only | | |
/// | begin | | | yes |
/// | lock timeout | milliseconds | seconds, rounded up | milliseconds |
/// | statement timeout | milliseconds | milliseconds; MySQL: `SELECT` only | |
/// | idle timeout | milliseconds | MariaDB: seconds, rounded up | |
/// | settings, role | yes | | |
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    isolation: Option<Isolation>,
    access: Option<Access>,
    may_open_read_write: Option<bool>,
    deferrable: Option<bool>,
    begin: Option<Begin>,
    attempts: Option<u32>,
    deadline: Option<Duration>,
    backoff: Option<Backoff>,
    lock_timeout: Option<Duration>,
    statement_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    retry_unique: Option<u32>,
    resolve_commits: Option<Resolve>,
    schema: Option<Schema>,
    key: Option<u64>,
    retry_budget: Option<RetryBudget>,
    seed: Option<u64>,
    name: Option<&'static str>,
    location: Option<&'static Location<'static>>,
    observers: Observers,
    idle_warning: Option<Duration>,
    interceptors: Interceptors,
    local: Option<Arc<LocalSettings>>,
}

impl Options {
    /// Creates options with nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Overrides the strategy's isolation level.
    ///
    /// A strategy relies on its level: `Serializable` below SERIALIZABLE guarantees nothing, and
    /// `Pessimistic` above READ COMMITTED causes serialization failures on PostgreSQL and stale reads on
    /// MariaDB.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Opens read-only transactions: the database refuses writes, and
    /// [`Tx::for_update`](crate::Tx::for_update) acquires no locks. A unit whose commit is unknown is
    /// retried, because it cannot have stored anything. Runs are
    /// [`Unsupported`](crate::ErrorKind::Unsupported) on an [engine](crate::Engine) that has no such
    /// transactions, such as TiDB.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Some(Access::ReadOnly);
        self
    }

    /// Opens read-only transactions for queries of this crate, which write nothing. On an engine that has
    /// none, opens usual ones.
    pub(crate) fn queries_only(mut self) -> Self {
        self.may_open_read_write = Some(true);
        self.read_only()
    }

    /// PostgreSQL: makes a serializable, read-only transaction wait for a snapshot on which it can neither
    /// fail nor cause other transactions to fail. Use it for long reports.
    #[must_use]
    pub fn deferrable(mut self) -> Self {
        self.deferrable = Some(true);
        self
    }

    /// SQLite: sets when the locks are acquired, overriding what the strategy's row lock implies.
    #[must_use]
    pub fn begin(mut self, begin: Begin) -> Self {
        self.begin = Some(begin);
        self
    }

    /// Sets the maximum number of attempts, the first included. 0 is treated as 1. The default is 50.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// Sets the time limit of a run: all attempts, waits for locks and connections, delays and the commit
    /// together. The default is 10 s.
    ///
    /// The server receives the remaining time as its limit for lock waits and statements. The client enforces
    /// the deadline as well, because a stalled server reports no timeout. A commit that was not acknowledged
    /// by then is [unknown](crate::Error::is_commit_unknown).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the delays between attempts. The default is [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Limits each wait for a lock: for a row, and on PostgreSQL, MySQL and MariaDB also for a table whose
    /// definition is being changed. Has no effect beyond the deadline.
    ///
    /// # Default
    ///
    /// Slightly less than the time that is left when the transaction opens, or the session's own limit
    /// (`lock_timeout` on PostgreSQL, `innodb_lock_wait_timeout` and `lock_wait_timeout` on MariaDB) if
    /// that is shorter. A statement that waits for a lock until the deadline is therefore reported as a
    /// [lock timeout](crate::Error::is_lock_timeout), with two exceptions:
    ///
    /// - A statement that starts late in its unit is cut off by the client, which does not know what the
    ///   statement waited for.
    /// - MySQL and MariaDB count in seconds. With less than four seconds left, a wait may be reported as a
    ///   statement timeout.
    #[must_use]
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = Some(limit);
        self
    }

    /// Limits the duration of each statement. Has no effect beyond the deadline, which is the default.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = Some(limit);
        self
    }

    /// Limits each pause between two statements, while the unit is busy with something else. When the limit
    /// passes, the server closes the connection and the unit is retried. There is no limit by default.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = Some(limit);
        self
    }

    /// Retries a unit that ends because of a unique violation, up to this many times. The default is 0.
    ///
    /// Use it for get-or-create: of two units that create the same row, the second one finds it on its next
    /// attempt. A violation that a [savepoint](crate::Tx::savepoint) has undone does not count, even if the
    /// unit returns its error.
    ///
    /// # Why not by default?
    ///
    /// Most violations are permanent, such as a name that is taken, so every retry would fail as well.
    #[must_use]
    pub fn retry_unique(mut self, times: u32) -> Self {
        self.retry_unique = Some(times);
        self
    }

    /// Finds out whether a commit that was never acknowledged was stored, instead of reporting it as
    /// [unknown](crate::Error::is_commit_unknown).
    ///
    /// With [`Resolve::Operation`], each attempt writes a row with an id of its own to the table
    /// `atomically_operation`, in the round trip that opens the transaction. After an unknown commit, the
    /// next attempt writes the *same* id. If the row exists, the earlier attempt is stored and its value is
    /// returned. Otherwise the row keeps the earlier attempt from being stored, even if it is still
    /// running, and the unit is retried. A commit that cannot be resolved before the deadline stays
    /// unknown.
    ///
    /// The nodes of a Galera cluster do not wait for each other's locks, so there the earlier attempt may
    /// still be stored while a later one runs on another node. The cluster commits only one of them, whose
    /// value is returned and whose hooks run. If the later attempt ends with an error instead, the commit
    /// stays unknown.
    ///
    /// Create the table with
    /// [`PoolTransactor::create_operation_table`](crate::PoolTransactor::create_operation_table) or in your
    /// own [migrations](crate::guide::schema), and delete old rows with a [`Purge`](crate::Purge).
    ///
    /// # Why not by default?
    ///
    /// It costs one row per transaction. On SQLite it also turns every unit into a writer.
    #[must_use]
    pub fn resolve_commits(mut self, by: Resolve) -> Self {
        self.resolve_commits = Some(by);
        self
    }

    /// Sets the names of the tables that the crate keeps: see [`Schema::prefixed`]. By default they have no
    /// prefix.
    ///
    /// This applies to idempotency keys and to [`resolve_commits`](Self::resolve_commits). For a queue, set
    /// it with `Queue::options`.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Sets the key that the unit contends for: see [`TransactorExt::on_key`](crate::TransactorExt::on_key).
    ///
    /// On SQLite, one key for a whole transactor makes sense: all writers contend for the same lock, and the
    /// gate grants it in the order of their arrival, which SQLite itself does not guarantee.
    #[must_use]
    pub fn on_key(mut self, key: impl Hash) -> Self {
        self.key = Some(digest(&key));
        self
    }

    /// Limits retries with a budget that is shared across runs. There is no budget by default.
    #[must_use]
    pub fn retry_budget(mut self, budget: &RetryBudget) -> Self {
        self.retry_budget = Some(budget.clone());
        self
    }

    /// Seeds the random delays between attempts, for reproducible tests.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Names the unit in logs, metrics and deadlock reports: see
    /// [`TransactorExt::named`](crate::TransactorExt::named).
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Adds an observer, in addition to those of the transactor. An `Arc` that is added twice observes once.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.add(Arc::new(observer));
        self
    }

    /// Sets how long an open transaction may be idle before observers receive
    /// [`UnitEvent::Idle`](crate::UnitEvent::Idle). The default is 1 s.
    ///
    /// Unlike [`idle_timeout`](Self::idle_timeout), it does not end the transaction.
    #[must_use]
    pub fn idle_warning(mut self, limit: Duration) -> Self {
        self.idle_warning = Some(limit);
        self
    }

    /// Sets the location that started the run.
    pub(crate) fn started_at(mut self, location: &'static Location<'static>) -> Self {
        self.location = Some(location);
        self
    }

    /// Passes every statement through this interceptor first, and then through those of the transactor.
    #[cfg(feature = "testing")]
    pub(crate) fn intercepted_by(mut self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.interceptors = Interceptors::one(interceptor);
        self
    }
}
