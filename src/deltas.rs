//! Additions to rows that many tasks update, several in one commit.

use std::fmt;
use std::ops::RangeInclusive;

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, Key, Target};
use crate::batching::{BatchLimits, BatchRunner, Batching, NumberColumn, run_in_parts};
use crate::error::Error;
use crate::events::Observer;
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, Transactor as _};

mod single_statement;
mod batch;

use batch::Batch;
use single_statement::SingleStatement;

/// Adds to a numeric column, with many additions in one commit. Use it for counters, stock, seats and
/// balances that many tasks update at once.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), atomically::Error> {
/// use atomically::{DeltaOutcome, Deltas};
///
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect("sqlite::memory:").await?;
/// # let table = "CREATE TABLE product (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL)";
/// # sqlx::query(table).execute(&pool).await?;
/// # sqlx::query("INSERT INTO product VALUES (7, 5)").execute(&pool).await?;
/// let stock = Deltas::on(&pool, "product", "id", "stock").at_least(0);
///
/// assert_eq!(stock.add(7_i64, -3).await?, DeltaOutcome::Applied { value: 2 });
/// assert_eq!(stock.add(7, -3).await?, DeltaOutcome::Refused { value: 2 });
/// assert_eq!(stock.add(8, -3).await?, DeltaOutcome::NotFound);
/// # Ok(()) }
/// ```
///
/// While one batch is being committed, the next one collects calls. There is no timer: a call that arrives
/// alone is committed alone. A batch applies its calls in the order of their arrival and updates each row
/// once. When it has committed, each call returns with the value after *its own* change.
///
/// Create one `Deltas` and share its clones between tasks: only calls through the same `Deltas`, or a clone
/// of it, share commits. Other code and other processes may update the same rows at the same time, because
/// each batch locks its rows, in the order of their keys.
///
/// # Round trips
///
/// A batch is a transaction of five steps: BEGIN, the row locks with the values, the update, the values
/// again, COMMIT. Where possible, they take fewer round trips:
///
/// | | |
/// |---|---|
/// | PostgreSQL | one: a single statement for rows that have room for all of their calls |
/// | MySQL, MariaDB | two: the rows are locked with BEGIN, and changed and checked with COMMIT |
/// | Galera | five: statements of a transaction must not share a packet |
/// | SQLite | one step: a single statement for rows that have room for all of their calls |
///
/// The gain is largest for rows that several processes update, because each row stays locked for one round
/// trip at most.
///
/// A batch uses the transaction instead of the single statement if:
///
/// - another session keeps one of the rows locked for 5 ms, or, on SQLite, the database for as long as its
///   `busy_timeout`;
/// - the deadline of one of its calls is less than 100 ms away, or, on SQLite, not a third longer than the
///   `busy_timeout`;
/// - another user of the pool has left a transaction open on the connection;
/// - the [options](Self::options) need a transaction, such as an isolation level, a timeout or
///   `resolve_commits`;
/// - the keys are neither integers nor text nor UUIDs, or the column is neither an integer nor `NUMERIC`; on
///   SQLite, if the keys are other than `i64`, `i32`, `i16` and `String`, or the number is stored as
///   floating-point;
/// - the table is a view, or has triggers that run for each updated row or after updates, because a single
///   statement cannot see their effect on a row; on SQLite, if it has any trigger, or is not named plainly.
///
/// On MySQL and MariaDB, keys without a literal (see [`Tx::at_commit`](crate::Tx::at_commit)) are bound, and
/// such a batch takes five round trips. Literals are UTF-8: on a connection with another character set, keys
/// that are not ASCII are only found with [`single_statement(false)`](Self::single_statement).
///
/// # When to use
///
/// Many tasks of one process update few rows, and each update adds a number, with at most a floor and a
/// ceiling. The [guide](crate::guide::coalescing) says when not to use it.
///
/// # Guarantees
///
/// - The results are those of calls that ran one after another, on each row in the order of their arrival. A
///   call that would leave the bounds is refused, and the calls after it are decided without it.
/// - A call is applied if, and only if, its row holds the sum: the batch reads the row again after the
///   update, before it commits.
/// - A call returns after the commit. If a batch is not stored, or its commit is unknown, all of its calls
///   return the same error.
/// - A caller that is dropped withdraws only its own call.
/// - If the *database* refuses a batch (because of a `CHECK`, a trigger, or a value out of the column's
///   range), the batch is split in halves until the calls that cause the error are on their own, and only
///   those fail. The same applies if the database would store a different number than the sum without
///   reporting an error.
///
/// # The columns
///
/// `table`, `key` and `column` are inserted into the statements verbatim; quote them if your database
/// requires it. Keys are unique and compared with Rust's `Eq`: under a case-insensitive collation, `"A"` is
/// not found if the row holds `"a"`. The Rust type of the keys is the one into which sqlx decodes the key
/// column: `7_i64` for a `BIGINT`.
///
/// The column has an integer type, or another type that holds integers within the range of an `i64`. If its
/// type or a trigger would change the sum, the calls fail and none of them is stored: a `FLOAT` at 16 777 216
/// cannot grow by 1, and without strict mode MySQL and MariaDB clip a value that is out of range. Set bounds
/// that a `CHECK` or a trigger enforces with [`at_least`](Self::at_least) and [`at_most`](Self::at_most) as
/// well: the database sees only the result of a batch, not its steps.
///
/// # Default
///
/// - bounds: those of an `i64`
/// - [options](Self::options): those of [`PoolTransactor`], with a deadline of 10 s for each call
/// - [capacity](Self::capacity): 10 000 waiting calls
/// - [batches](Self::max_batches): 2 at a time
///
/// # Why a background task?
///
/// If the batch ran in the task of one of its callers, dropping that caller would cancel the other calls. The
/// background task runs only while there are calls, and ends when the last handle is dropped.
pub struct Deltas<DB: Backend, K> {
    batching: Batching<Additions<DB, K>, K, i64, DeltaOutcome>,
}

/// The result of an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum DeltaOutcome {
    /// The addition is stored.
    Applied {
        /// The value after this call and all calls before it.
        value: i64,
    },
    /// The sum would have been below the floor, above the ceiling or out of the range of an `i64`. The call
    /// changed nothing.
    Refused {
        /// The current value, after all calls before this one.
        value: i64,
    },
    /// There is no row with this key.
    NotFound,
}

/// The settings of a [`Deltas`].
#[derive(Debug, Clone)]
struct Settings {
    target: Target,
    bounds: RangeInclusive<i64>,
    options: Options,
    limits: BatchLimits,
    persistent: bool,
    single_statement: bool,
}

impl Settings {
    fn numbers(&self) -> NumberColumn {
        NumberColumn {
            target: self.target,
            persistent: self.persistent,
            shares_texts: self.single_statement,
            result: "sum",
            also: None,
        }
    }
}

impl<DB: Backend, K: Key<DB> + 'static> Deltas<DB, K> {
    /// Creates a handle that adds to `column` in the rows of `table`, which are identified by the column
    /// `key`.
    #[must_use]
    pub fn on(pool: &Pool<DB>, table: &'static str, key: &'static str, column: &'static str) -> Self {
        let settings = Settings {
            target: Target { table, key, column },
            bounds: i64::MIN..=i64::MAX,
            options: Options::default(),
            limits: BatchLimits::DEFAULT,
            persistent: true,
            single_statement: true,
        };
        Self::new(Pessimistic::default().on(pool), settings)
    }

    fn new(transactor: PoolTransactor<DB, Pessimistic>, settings: Settings) -> Self {
        let transactor = transactor.options(settings.options.or(&Options::new().named("deltas")));
        let single_statement = SingleStatement::new(&settings);
        Self { batching: Batching::new(Additions { transactor, settings, single_statement }) }
    }

    /// Returns a handle with changed settings and a queue of its own; other handles keep theirs.
    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let runner = self.batching.runner();
        let mut settings = runner.settings.clone();
        change(&mut settings);
        Self::new(runner.transactor.clone(), settings)
    }

    /// Refuses calls that would leave a value below `floor`. There is no floor by default.
    #[must_use]
    pub fn at_least(self, floor: i64) -> Self {
        self.with(|settings| settings.bounds = floor..=*settings.bounds.end())
    }

    /// Refuses calls that would leave a value above `ceiling`. There is no ceiling by default.
    #[must_use]
    pub fn at_most(self, ceiling: i64) -> Self {
        self.with(|settings| settings.bounds = *settings.bounds.start()..=ceiling)
    }

    /// Sets options for every batch, overriding those that were set before. The deadline applies to each
    /// call, from [`add`](Self::add) to its result.
    #[must_use]
    pub fn options(self, options: Options) -> Self {
        self.with(|settings| settings.options = options.or(&settings.options))
    }

    /// Names the batches in logs, metrics and deadlock reports. The default is `deltas`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.options(Options::new().named(name))
    }

    /// Adds an observer of every batch, in addition to earlier ones.
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(observer))
    }

    /// Sets the maximum number of calls that wait for a batch; 0 is treated as 1. Further calls fail at
    /// once with [`Overloaded`](crate::ErrorKind::Overloaded). The default is 10 000.
    #[must_use]
    pub fn capacity(self, calls: usize) -> Self {
        self.with(|settings| settings.limits.capacity = calls.max(1))
    }

    /// Sets the maximum number of batches that run at the same time, no two of them with the same key; 0 is
    /// treated as 1. Each uses a connection. The default is 2.
    ///
    /// Another batch starts only if all running batches have been running for 5 ms, because otherwise two
    /// batches of half the size would cost two commits. A batch that waits for a locked row therefore delays
    /// only the calls on its own keys, as long as another batch may start.
    #[must_use]
    pub fn max_batches(self, batches: usize) -> Self {
        self.with(|settings| settings.limits.max_batches = batches.max(1))
    }

    /// Lets batches reuse connections: [`PoolTransactor::reuse_connections`]. By default each batch
    /// acquires a connection from the pool, which costs one or two round trips.
    #[must_use]
    pub fn reuse_connections(self) -> Self {
        let runner = self.batching.runner();
        Self::new(runner.transactor.clone().reuse_connections(), runner.settings.clone())
    }

    /// Sets whether connections cache the prepared statements, like sqlx's
    /// [`persistent`](sqlx::query::Query::persistent). Use `false` behind poolers that do not support
    /// prepared statements. The default is `true`.
    ///
    /// The [single statement](Self#round-trips) is cached in any case. Its name is unique, so a pooler
    /// cannot mistake another statement for it.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// Sets whether a batch may use a [single statement](Self#round-trips) on PostgreSQL and SQLite, and the
    /// texts of BEGIN and COMMIT on MySQL and MariaDB. The default is `true`.
    ///
    /// On PostgreSQL, MySQL and MariaDB, the keys and the amounts of such a batch are literals in these
    /// texts, because sqlx sends several statements in one round trip as text only. Observers and errors do
    /// not show them, but sqlx's log (`sqlx::query`, at debug and for slow statements), the server's list of
    /// running statements and the server's log do. With `false`, they are bound. Use `false` if keys or
    /// amounts are confidential.
    #[must_use]
    pub fn single_statement(self, single_statement: bool) -> Self {
        self.with(|settings| settings.single_statement = single_statement)
    }

    /// Adds `delta` to the value in the row with this key, and returns when the addition is committed.
    ///
    /// The returned value is the one right after this call. Other calls may have changed it since.
    ///
    /// # Errors
    ///
    /// - [`Overloaded`](crate::ErrorKind::Overloaded): too many calls are waiting. Nothing was stored.
    /// - [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded): nothing was stored.
    /// - [`CommitUnknown`](crate::ErrorKind::CommitUnknown): the batch may or may not be stored, with this
    ///   call in it.
    /// - [`Aborted`](crate::ErrorKind::Aborted): the call was made inside of a unit of work on the same
    ///   pool, which would wait for itself; or the value is not an integer within the range of an `i64`; or
    ///   several rows have the key; or the row would have held a number other than the sum, because of the
    ///   column's type or a trigger. Nothing was stored.
    /// - Any other error of a unit of work: nothing was stored.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. If its batch has not begun to write, the call is withdrawn; otherwise it
    /// may or may not be stored.
    pub async fn add(&self, key: K, delta: i64) -> Result<DeltaOutcome, Error> {
        let runner = self.batching.runner();
        let deadline = runner.settings.options.deadline_from(Instant::now());
        self.batching.call(runner.transactor.pool(), (key, delta), deadline).await
    }
}

/// Runs batches of additions.
struct Additions<DB: Backend, K> {
    transactor: PoolTransactor<DB, Pessimistic>,
    settings: Settings,
    single_statement: SingleStatement<DB, K>,
}

impl<DB: Backend, K: Key<DB>> BatchRunner<K, i64, DeltaOutcome> for Additions<DB, K> {
    fn limits(&self) -> BatchLimits {
        self.settings.limits
    }

    /// Runs a batch as a single statement, and then the remaining calls as a transaction, which is split in
    /// halves if the database refuses some of them.
    async fn run(&self, calls: Vec<AdditionCall<K>>) {
        let Self { single_statement, transactor, settings } = self;
        let rest = single_statement.apply(transactor, &settings.bounds, calls).await;
        run_in_parts(rest, |calls, options| async move {
            let mut batch = Batch::new(settings, calls);
            let ended = transactor.transact(&options, &mut batch).await;
            for (call, result) in batch.end(ended)? {
                call.complete(result);
            }
            Ok(Vec::new())
        })
        .await;
    }
}

/// An addition that waits.
type AdditionCall<K> = crate::batching::Call<K, i64, DeltaOutcome>;

// Not derived, because that would require `K: Clone` and `DB: Clone`.
impl<DB: Backend, K> Clone for Deltas<DB, K> {
    fn clone(&self) -> Self {
        Self { batching: self.batching.clone() }
    }
}

impl<DB: Backend, K> fmt::Debug for Deltas<DB, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deltas")
            .field("database", &DB::NAME)
            .field("settings", &self.batching.runner().settings)
            .finish_non_exhaustive()
    }
}
