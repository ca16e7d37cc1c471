//! What can be asked of a transactor, or of one run.

use std::hash::Hash;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::backoff::Backoff;
use crate::digest::digest;
use crate::events::{Observer, Run};
#[cfg(feature = "testing")]
use crate::intercept::Interceptor;
use crate::intercept::Interceptors;
use crate::isolation::{Access, Begin, Isolation};
use crate::retry_budget::RetryBudget;
use crate::strategy::{Limits, OwnLockLimit, Plan, Resolve};
use crate::telemetry::Observers;

mod identity;

/// How units of work are to be run, as far as the strategy is not to decide: for a transactor
/// ([`PoolTransactor::options`](crate::PoolTransactor::options)) or for one run
/// ([`TransactorExt::with`](crate::TransactorExt::with)).
///
/// ```
/// # use atomically::{Error, Options, Optimistic, TransactorExt as _};
/// # use std::time::Duration;
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let db = Optimistic::default().on(&pool);
/// let report = Options::new().read_only().deadline(Duration::from_secs(60));
/// let rows: i64 = db
///     .with(report)
///     .run(async |tx| Ok::<_, Error>(sqlx::query_scalar("SELECT COUNT(*) FROM product").fetch_one(&mut *tx).await?))
///     .await?;
/// # Ok(()) }
/// ```
///
/// Everything travels in the round trip that opens the transaction, and is gone when it ends. An option that
/// the database does not have is an error ([`Unsupported`](crate::ErrorKind::Unsupported)) before anything is
/// run, never silently left out.
///
/// # What each database has
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    isolation: Option<Isolation>,
    access: Option<Access>,
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
    key: Option<u64>,
    retry_budget: Option<RetryBudget>,
    seed: Option<u64>,
    name: Option<&'static str>,
    location: Option<&'static Location<'static>>,
    observers: Observers,
    idle_warning: Option<Duration>,
    interceptors: Interceptors,
}

impl Options {
    /// Nothing asked for.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The isolation level, instead of the strategy's.
    ///
    /// A strategy relies on its level: `Serializable` below SERIALIZABLE promises nothing, and `Pessimistic`
    /// above READ COMMITTED meets serialization failures on PostgreSQL and stale reads on MariaDB.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// The database refuses writes, and [`Tx::for_update`](crate::Tx::for_update) takes no locks. A commit
    /// without an answer is then no mystery: the unit is run again.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Some(Access::ReadOnly);
        self
    }

    /// PostgreSQL: a serializable, read-only transaction waits for a moment from which it can neither fail
    /// nor make others fail. For long reports.
    #[must_use]
    pub fn deferrable(mut self) -> Self {
        self.deferrable = Some(true);
        self
    }

    /// SQLite: when the locks are taken, instead of what the strategy's row lock asks for.
    #[must_use]
    pub fn begin(mut self, begin: Begin) -> Self {
        self.begin = Some(begin);
        self
    }

    /// How many attempts a unit gets, the first included; 0 counts as 1. The default is 50.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// How long a unit may take: all attempts, waits for locks and connections, delays and the commit
    /// together. The default is 10 s.
    ///
    /// The server is told what is left of it, as its limit for lock waits and statements; the client keeps it
    /// too, because a server that has stalled says nothing. A commit that is not answered by then is
    /// [unknown](crate::Error::is_commit_unknown).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The delays between attempts. The default is [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// How long each wait for a lock may take, where that is less than what is left of the deadline: for a
    /// row, and on PostgreSQL, MySQL and MariaDB also for a table whose definition is being changed.
    ///
    /// Without it, the limit is a little less than what is left of the deadline when the transaction is
    /// opened, or the session's own limit (`lock_timeout` on PostgreSQL, `innodb_lock_wait_timeout` and
    /// `lock_wait_timeout` on MariaDB) where that is shorter. So a statement that waits for a lock until the
    /// deadline is reported as a [lock timeout](crate::Error::is_lock_timeout). There are two exceptions. A
    /// statement that begins late in its unit is cut off by the client, which does not know what it waited
    /// for. And MySQL and MariaDB count in seconds: with less than four of them left, a wait may be reported
    /// as a statement timeout.
    #[must_use]
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = Some(limit);
        self
    }

    /// How long each statement may take, where that is less than what is left of the deadline.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = Some(limit);
        self
    }

    /// How long the unit may be busy with something else than the database, between two statements. The
    /// server closes the connection then, and the unit is run again.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = Some(limit);
        self
    }

    /// Runs the unit again when it ends because of a unique violation, up to this many times: for "get it, or
    /// create it if it is not there", where the one who comes second finds it at the next attempt.
    ///
    /// A violation that a [savepoint](crate::Tx::savepoint) has rescued does not count, also where the unit
    /// returns its error: the unit has had its chance to deal with it.
    ///
    /// # Why not always?
    ///
    /// A violation that persists would be met again and again. Most of them are the caller's news: the name
    /// is taken.
    #[must_use]
    pub fn retry_unique(mut self, times: u32) -> Self {
        self.retry_unique = Some(times);
        self
    }

    /// Finds out what became of a commit whose answer never came, instead of reporting it as
    /// [unknown](crate::Error::is_commit_unknown).
    ///
    /// With [`Resolve::Operation`] each attempt writes a row with an id of its own into the table
    /// `atomically_operation`, in the round trip that opens the transaction. When a commit goes unanswered,
    /// the next attempt writes the *same* id first: if it is there already, the earlier attempt was stored,
    /// and its value is answered; if not, the earlier one cannot be stored any more, not even if it is still
    /// at work, and the unit runs again. All of that within the deadline; a commit that is still unanswered
    /// then stays unknown.
    ///
    /// The table is made by
    /// [`PoolTransactor::create_operation_table`](crate::PoolTransactor::create_operation_table) or by your
    /// own migrations, and rows are removed by [`purge_operations`](crate::PoolTransactor::purge_operations).
    ///
    /// # Why not always?
    ///
    /// It costs a row for each transaction. And not on SQLite without need: there it makes a writer of every
    /// unit.
    #[must_use]
    pub fn resolve_commits(mut self, by: Resolve) -> Self {
        self.resolve_commits = Some(by);
        self
    }

    /// Names what the unit contends for: [`TransactorExt::on_key`](crate::TransactorExt::on_key).
    ///
    /// For a whole transactor, on SQLite: there every writer contends for the same thing, and one key for all
    /// of them puts them into a line that SQLite itself does not keep.
    #[must_use]
    pub fn on_key(mut self, key: impl Hash) -> Self {
        self.key = Some(digest(&key));
        self
    }

    /// What further attempts are paid from, together with all other runs that have the same budget. The
    /// default is that they cost nothing.
    #[must_use]
    pub fn retry_budget(mut self, budget: &RetryBudget) -> Self {
        self.retry_budget = Some(budget.clone());
        self
    }

    /// Draws the delays between attempts from this seed instead of from the operating system: for tests.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Names the unit, for logs and metrics: [`TransactorExt::named`](crate::TransactorExt::named).
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Tells this observer what happens, besides those of the options underneath.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.add(&observer);
        self
    }

    /// For how long an open transaction may be idle before observers are [told](crate::UnitEvent::Idle). The
    /// default is 1 s.
    ///
    /// Unlike [`idle_timeout`](Self::idle_timeout) this ends nothing.
    #[must_use]
    pub fn idle_warning(mut self, limit: Duration) -> Self {
        self.idle_warning = Some(limit);
        self
    }

    /// Where the run was started.
    pub(crate) fn started_at(mut self, location: &'static Location<'static>) -> Self {
        self.location = Some(location);
        self
    }

    /// Lets everything that is asked of the database pass this first, and then those of the options
    /// underneath.
    #[cfg(feature = "testing")]
    pub(crate) fn intercepted_by(mut self, interceptor: Arc<dyn Interceptor>) -> Self {
        self.interceptors = Interceptors::one(interceptor);
        self
    }

    /// These options, and those of `base` where these ask for nothing.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        Self {
            isolation: self.isolation.or(base.isolation),
            access: self.access.or(base.access),
            deferrable: self.deferrable.or(base.deferrable),
            begin: self.begin.or(base.begin),
            attempts: self.attempts.or(base.attempts),
            deadline: self.deadline.or(base.deadline),
            backoff: self.backoff.or(base.backoff),
            lock_timeout: self.lock_timeout.or(base.lock_timeout),
            statement_timeout: self.statement_timeout.or(base.statement_timeout),
            idle_timeout: self.idle_timeout.or(base.idle_timeout),
            retry_unique: self.retry_unique.or(base.retry_unique),
            resolve_commits: self.resolve_commits.or(base.resolve_commits),
            key: self.key.or(base.key),
            retry_budget: self.retry_budget.as_ref().or(base.retry_budget.as_ref()).cloned(),
            seed: self.seed.or(base.seed),
            name: self.name.or(base.name),
            location: self.location.or(base.location),
            observers: self.observers.and(&base.observers),
            idle_warning: self.idle_warning.or(base.idle_warning),
            interceptors: self.interceptors.and(&base.interceptors),
        }
    }

    /// What the strategy plans, as far as nothing else was asked for.
    pub(super) fn applied_to(&self, plan: Plan) -> Plan {
        let access = self.access.unwrap_or(plan.access);
        Plan {
            isolation: self.isolation.unwrap_or(plan.isolation),
            // Databases refuse to lock rows for one who only reads.
            row_lock: plan.row_lock.filter(|_| access == Access::ReadWrite),
            access,
            deferrable: self.deferrable.unwrap_or(plan.deferrable),
            begin: self.begin.or(plan.begin),
            gated: plan.gated,
        }
    }

    pub(super) fn limits(&self, left: Duration) -> Limits {
        Limits {
            left: Some(left),
            lock: self.lock_timeout,
            statement: self.statement_timeout,
            idle: self.idle_timeout,
            own_lock: OwnLockLimit::default(),
        }
    }

    pub(super) fn max_attempts(&self) -> u32 {
        self.attempts.unwrap_or(50)
    }

    pub(crate) fn time(&self) -> Duration {
        self.deadline.unwrap_or(Duration::from_secs(10))
    }

    /// Whether a statement alone, which is its own transaction, lacks something that is asked for here.
    pub(crate) fn ask_for_a_transaction(&self) -> bool {
        self.isolation.is_some()
            || self.access.is_some()
            || self.deferrable.is_some()
            || self.begin.is_some()
            || self.lock_timeout.is_some()
            || self.statement_timeout.is_some()
            || self.idle_timeout.is_some()
            || self.resolve_commits.is_some()
            || !self.interceptors.is_empty()
    }

    pub(super) fn limits_idling(&self) -> bool {
        self.idle_timeout.is_some()
    }

    pub(super) fn key(&self) -> Option<u64> {
        self.key
    }

    pub(super) fn budget(&self) -> Option<&RetryBudget> {
        self.retry_budget.as_ref()
    }

    /// By what attempts can be found again. One who only reads leaves nothing to be found.
    pub(super) fn resolves_commits(&self) -> Option<Resolve> {
        self.resolve_commits.filter(|_| self.access != Some(Access::ReadOnly))
    }

    pub(super) fn name(&self) -> &'static str {
        self.name.unwrap_or(Run::UNNAMED)
    }

    pub(super) fn location(&self) -> Option<&'static Location<'static>> {
        self.location
    }

    pub(super) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(super) fn idle_limit(&self) -> Duration {
        self.idle_warning.unwrap_or(Duration::from_secs(1))
    }

    pub(super) fn interceptors(&self) -> &Interceptors {
        &self.interceptors
    }

    pub(super) fn unique_retries(&self) -> u32 {
        self.retry_unique.unwrap_or(0)
    }

    /// The delays between attempts, without end.
    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let chance = match self.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        self.backoff.unwrap_or_default().delays(chance)
    }
}
