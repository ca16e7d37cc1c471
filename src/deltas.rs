//! Updates that commute, many to one commit.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::backend::{Backend, Key, Target};
use crate::error::{Error, Spent};
use crate::failure::{Failure, FailureKind};
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor};
use crate::tx::{holds_connection_of, nested};

mod single_statement;
mod batch;
mod batcher;
mod pending;

use batcher::{Batcher, Shared};
use pending::Call;

/// How many calls wait by default.
const CAPACITY: usize = 10_000;

/// Adds to a column of numbers, many calls to one commit: for counters, stock, seats and balances that
/// everybody wants at once.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), atomically::Error> {
/// use atomically::{DeltaOutcome, Deltas};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::query("CREATE TABLE product (id INTEGER PRIMARY KEY, stock INTEGER NOT NULL)").execute(&pool).await?;
/// # sqlx::query("INSERT INTO product VALUES (7, 5)").execute(&pool).await?;
/// let stock = Deltas::on(&pool, "product", "id", "stock").at_least(0);
///
/// assert_eq!(stock.add(7_i64, -3).await?, DeltaOutcome::Applied { value: 2 });
/// assert_eq!(stock.add(7, -3).await?, DeltaOutcome::Refused { value: 2 });
/// assert_eq!(stock.add(8, -3).await?, DeltaOutcome::NotFound);
/// # Ok(()) }
/// ```
///
/// While one batch is on its way to the database, the next one gathers; there is no timer, and a call that
/// comes alone goes alone. A batch decides call by call in the order of their arrival, and changes each row
/// once. Its calls are answered when it is committed, each with the value after *its own* change.
///
/// Make one, share its clones between tasks: what is not called through the same `Deltas` (or a clone of it)
/// shares no commit. Others may change the same rows at the same time, in other processes and by any means:
/// the rows are locked while it is decided about them, in the order of their keys.
///
/// # Round trips
///
/// A batch is a transaction of five: BEGIN, the locks with the numbers, the update, the numbers once more,
/// COMMIT. On PostgreSQL one is enough for the calls on rows whose numbers have room for them all, unless
/// somebody keeps one of the rows locked for 5 ms. Who shares a row with other processes gains most: it is
/// locked for the time of a commit, and no longer for that of three round trips more.
///
/// The others go by the transaction. So does a batch of which a caller has less than 100 ms left; whoever
/// asks for something that only a transaction has, by [options](Self::options) such as an isolation level, a
/// timeout or `resolve_commits`; keys that are neither integers nor text nor a UUID; numbers that are neither
/// integers nor `NUMERIC`; views; and tables with triggers for each updated row or after updates, as one
/// statement cannot see what becomes of a row.
///
/// # When to use
///
/// Many tasks of one process change few rows, and each change is a number to add, with at most a floor and a
/// ceiling. The [guide](crate::guide::coalescing) says when not.
///
/// # What it promises
///
/// - The answers are those of calls that ran one after another, on each row in the order of their arrival. A
///   call that does not fit is refused, and those after it are judged without it.
/// - A call is applied if, and only if, its row holds the sum: the batch reads the row after its change,
///   before it commits.
/// - A call is answered after the commit. A batch that is not stored, or whose commit is unknown, is the same
///   error for all of its calls.
/// - A caller that is dropped takes nothing but its own call along.
/// - What the *database* refuses (a `CHECK`, a trigger, a number too big for the column) is found out by
///   halving the batch until it stands alone, and is told to the calls that it is about. So is a sum that the
///   database does not refuse, but would store as another number.
///
/// # The columns
///
/// `table`, `key` and `column` go into the statements as they are; quote them where your database asks for
/// it. The keys are unique, and compared by Rust's equality: under a collation that knows no case, `"A"` is
/// not found where the row says `"a"`. Their type is the one that sqlx reads from that column: `7_i64` for a
/// `BIGINT`.
///
/// The column of the numbers is of an integer type, or of another type as long as it holds integers that fit
/// an `i64`. A type or a trigger that would make another number of the sum is an error of the calls, and
/// nothing of them is stored: a `FLOAT` at 16 777 216 cannot grow by 1, and without the strict mode MySQL and
/// MariaDB cut a number that is too big for its column. Bounds that a `CHECK` or a trigger keeps belong into
/// [`at_least`](Self::at_least) and [`at_most`](Self::at_most) too: the database sees what becomes of a row
/// in a batch as a whole, not the steps.
///
/// # Defaults
///
/// - no floor and no ceiling but those of an `i64`
/// - [options](Self::options): those of [`PoolTransactor`], with a deadline of 10 s for each call
/// - [capacity](Self::capacity): 10 000 calls
/// - [flights](Self::max_batches): 2 batches at a time
///
/// # Why a task and not a caller that leads the others?
///
/// A caller can be dropped at any time, and would take the batch along. The task lives while there are calls
/// to serve, and ends with the last handle.
pub struct Deltas<DB: Backend, K> {
    shared: Arc<Shared<DB, K>>,
    /// Dropped with the last handle, which ends what is on its way.
    alive: Arc<watch::Sender<()>>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum DeltaOutcome {
    /// It is stored.
    Applied {
        /// The number after this call and all before it.
        value: i64,
    },
    /// The sum would have been below the floor, above the ceiling or out of the range of an `i64`. Nothing
    /// was changed.
    Refused {
        /// The number that was found, after all calls before this one.
        value: i64,
    },
    /// There is no row with this key.
    NotFound,
}

/// What a coalescer was asked for.
#[derive(Debug, Clone)]
struct Settings {
    target: Target,
    bounds: RangeInclusive<i64>,
    options: Options,
    capacity: usize,
    max_batches: usize,
    persistent: bool,
    single_statement: bool,
}

impl<DB: Backend, K: Key<DB> + 'static> Deltas<DB, K> {
    /// Adds to `column` of the row of `table` whose `key` is given.
    #[must_use]
    pub fn on(pool: &Pool<DB>, table: &'static str, key: &'static str, column: &'static str) -> Self {
        let settings = Settings {
            target: Target { table, key, column },
            bounds: i64::MIN..=i64::MAX,
            options: Options::default(),
            capacity: CAPACITY,
            max_batches: 2,
            persistent: true,
            single_statement: true,
        };
        Self::new(Pessimistic::default().on(pool), settings)
    }

    fn new(transactor: PoolTransactor<DB, Pessimistic>, settings: Settings) -> Self {
        let (alive, gone) = watch::channel(());
        Self { shared: Arc::new(Shared::new(transactor, settings, gone)), alive: Arc::new(alive) }
    }

    /// With a queue of its own: what was asked for before is not changed under its other users.
    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self::new(self.shared.transactor.clone(), settings)
    }

    /// Refuses calls that would leave less than this.
    #[must_use]
    pub fn at_least(self, floor: i64) -> Self {
        self.with(|settings| settings.bounds = floor..=*settings.bounds.end())
    }

    /// Refuses calls that would leave more than this.
    #[must_use]
    pub fn at_most(self, ceiling: i64) -> Self {
        self.with(|settings| settings.bounds = *settings.bounds.start()..=ceiling)
    }

    /// Asks for this in every batch, in place of what was asked for before. The deadline is that of each
    /// call, from [`add`](Self::add) to its answer.
    #[must_use]
    pub fn options(self, options: Options) -> Self {
        self.with(|settings| settings.options = options.or(&settings.options))
    }

    /// How many calls may wait for their batch to begin; 0 counts as 1. Further ones are
    /// [`Overloaded`](crate::ErrorKind::Overloaded) at once.
    #[must_use]
    pub fn capacity(self, calls: usize) -> Self {
        self.with(|settings| settings.capacity = calls.max(1))
    }

    /// How many batches may be on their way at a time, no two of them with the same key; 0 counts as 1. Each
    /// takes a connection. A further one departs when those that are on their way have been for 5 ms.
    ///
    /// A batch that waits for a row which somebody else has locked holds up the calls on its own keys only,
    /// as long as there is another flight to be had. While nothing has to be waited for, two batches would be
    /// half as big each, and two commits.
    #[must_use]
    pub fn max_batches(self, batches: usize) -> Self {
        self.with(|settings| settings.max_batches = batches.max(1))
    }

    /// Lets batches reuse connections: [`PoolTransactor::reuse_connections`]. By default each batch acquires
    /// one from the pool, which costs one or two round trips.
    #[must_use]
    pub fn reuse_connections(self) -> Self {
        let transactor = self.shared.transactor.clone().reuse_connections();
        Self::new(transactor, self.shared.settings.clone())
    }

    /// Whether connections keep the statements that were prepared; as sqlx's own
    /// [`persistent`](sqlx::query::Query::persistent), and with `false` for the same poolers. The default is
    /// `true`.
    ///
    /// The statement for [one round trip](Self#round-trips) is kept in any case. It has a name of its own,
    /// behind which a pooler finds no other one.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// Whether a batch may take [one round trip](Self#round-trips), on PostgreSQL. The default is `true`.
    ///
    /// The keys and the amounts of such a batch are literals in the text of its statement, because sqlx sends
    /// several statements in one round trip as text only. Observers and errors do not show them, but the log
    /// of sqlx does (`sqlx::query`, at debug and for slow statements), and so do `pg_stat_activity` and the
    /// server's own log. With `false`, and on the other databases, they are bound. Say so where keys or
    /// amounts are nobody else's business.
    #[must_use]
    pub fn single_statement(self, single_statement: bool) -> Self {
        self.with(|settings| settings.single_statement = single_statement)
    }

    /// Adds `delta` to the number of the row with this key, and answers once that is committed.
    ///
    /// The value in the answer is the one right after this call: others may have changed it since.
    ///
    /// # Errors
    ///
    /// - [`Overloaded`](crate::ErrorKind::Overloaded): too many calls wait. Nothing was stored.
    /// - [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded): nothing was stored.
    /// - [`CommitUnknown`](crate::ErrorKind::CommitUnknown): the batch may or may not be stored, with this
    ///   call in it.
    /// - [`Aborted`](crate::ErrorKind::Aborted): the call came from inside of a unit of work on the same
    ///   pool, which would wait for itself; or the number is none that fits an `i64`; or several rows have
    ///   the key; or the row would have held another number than the sum, because of the column's type or a
    ///   trigger.
    /// - whatever else ends a unit of work: nothing was stored.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. A call whose batch has not begun to write is withdrawn; one whose batch
    /// has, may or may not be stored.
    pub async fn add(&self, key: K, delta: i64) -> Result<DeltaOutcome, Error> {
        let shared = &self.shared;
        if holds_connection_of(shared.transactor.pool()) {
            return Err(Error::failed(nested(), None));
        }
        let (runtime, started) = (Handle::current(), Instant::now());
        let deadline = shared.deadline(started);
        let (answer, answered) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let call = Call::new(key, delta, deadline, taken.clone(), answer);
        let (ticket, starts) = shared.queue().push(call, &shared.settings)?;
        let place = scopeguard::guard(ticket, |ticket| drop(shared.queue().withdraw(ticket)));
        if starts {
            Batcher::start(shared, &runtime);
        }
        let answered = timeout_at(deadline, answered).await;
        let spent = Spent { attempts: 0, elapsed: started.elapsed() };
        match answered {
            Ok(Ok(answer)) => {
                scopeguard::ScopeGuard::into_inner(place);
                answer
            }
            // Whoever is first: a batch takes no call that has given up, and no call gives up that was taken.
            Ok(Err(_)) if taken.swap(true, Ordering::AcqRel) => Err(unknown("the batch was never finished")),
            Ok(Err(_)) => {
                let why = "the runtime that carried the batch was shut down, or the batch panicked";
                Err(Error::failed(Failure::new(FailureKind::Unavailable, why), Some(spent)))
            }
            Err(_) if taken.swap(true, Ordering::AcqRel) => {
                Err(unknown("the deadline passed before the batch was committed"))
            }
            Err(_) => Err(Error::deadline_exceeded(None, spent)),
        }
    }
}

fn unknown(why: &str) -> Error {
    Error::failed(Failure::new(FailureKind::CommitUnknown, why), None)
}

// Not derived: that would ask for `K: Clone` and `DB: Clone`.
impl<DB: Backend, K> Clone for Deltas<DB, K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), alive: self.alive.clone() }
    }
}

impl<DB: Backend, K> fmt::Debug for Deltas<DB, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deltas")
            .field("database", &DB::NAME)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
