//! Deadlocks that have not happened yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Ended, Options, Transactor, Unit};

mod advisory;
mod catalog;
mod clause;
mod cycles;
#[cfg(test)]
mod reading;
mod recorder;
mod report;
mod rows;
mod sql;
mod trace;
mod values;
mod writes;

use catalog::{Catalog, Reading};
use recorder::Recorder;
pub use report::{Inversion, Locked, Order, Unclear, Unknown};
use rows::Keys;
use sql::Dialect;
use trace::{Lock, Trace};
use values::folded;

/// Records in which order transactions take locks, and finds those that could deadlock: on the first run that
/// shows both orders, one after the other, long before two of them meet.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::LockOrder;
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::query("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
/// let order = LockOrder::new();
/// let db = order.on(&db);
/// for (from, to) in [(1, 2), (2, 1)] {
///     db.run(async |tx| {
///         let add = "UPDATE account SET balance = balance + $1 WHERE id = $2";
///         sqlx::query(add).bind(-5).bind(from).execute(&mut *tx).await?;
///         sqlx::query(add).bind(5).bind(to).execute(&mut *tx).await?;
///         Ok::<_, Error>(())
///     })
///     .await?;
/// }
/// let found = order.inversions();
/// assert_eq!(
///     found[0].to_string(),
///     "account id=1 before account id=2:
///     UPDATE account SET balance = balance + -5 WHERE id = 1
///     UPDATE account SET balance = balance + 5 WHERE id = 2
/// and account id=2 before account id=1:
///     UPDATE account SET balance = balance + -5 WHERE id = 2
///     UPDATE account SET balance = balance + 5 WHERE id = 1"
/// );
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// The cure is [`Tx::lock_rows`](crate::Tx::lock_rows), or a lock that all of them take first. Cheap to
/// clone: clones share what they have seen, and several transactors of one database can be watched by one.
///
/// # What is a lock
///
/// - A *row*: its table, and the values of its key. Locked by `SELECT … FOR UPDATE` and its weaker kin,
///   `UPDATE`, `DELETE`, and by `INSERT`, for which another one with the same key waits. Which rows is told
///   by `column = value` and `column IN (values)` in the condition, alone or joined by `AND`, for each column
///   of the key. There need not be such a row: what counts is the order that the code keeps, not today's
///   data.
/// - A *value of another unique key*: an `INSERT`, or an `UPDATE` of its columns, keeps others from writing
///   the same value until the transaction ends.
/// - An *advisory lock*, the crate's ([`Tx::advisory_lock`](crate::Tx::advisory_lock)) or the database's own.
///   One that belongs to the session is held until it is unlocked.
///
/// Tables and their keys are read from the catalog, in a transaction of its own before the first unit that is
/// watched, and again after a statement named a table that was not there. [`key`](Self::key) says that rows
/// are told apart in another way.
///
/// A lock that the transaction holds already is not taken again. One that was refused (`NOWAIT`) is not held,
/// nor is one that went with its savepoint; MySQL and MariaDB keep those, unless the savepoint came first.
/// Whoever did not commit has shown its order as well.
///
/// # What is an inversion
///
/// A circle of transactions each of which holds what the one before it asks for, if they can all be there at
/// once:
///
/// - Locks that do not exclude each other are no reason to wait, so two orders of shared locks are none. A
///   lock that is shared first and then wanted for a change is one by itself, if two transactions can share
///   it.
/// - Two transactions that hold another lock at that point which excludes the other one never meet: a *gate*
///   in front of the two orders suppresses them. It has to be a lock of the database's that is seen here, and
///   its statement's answer has to show that it was granted: an `UPDATE` that found no row, a row that was
///   skipped (`SKIP LOCKED`) and a lock that was tried in vain keep nobody out.
/// - What does not wait (`NOWAIT`, `SKIP LOCKED`, `try_advisory_lock`) waits for nobody, but is waited for.
///
/// Several rows locked by one statement are locked in order if it says so (`ORDER BY key`, with numbers by
/// their value and everything else by its bytes), or if it inserts them. Otherwise the server picks the
/// order, most often that of an index, and no order among them is concluded; [`unknown`](Self::unknown) lists
/// the statement. To call two such statements an inversion would condemn every `UPDATE … WHERE id IN (1, 2)`
/// that runs twice.
///
/// Each inversion is reported once, however many rows show it: for each order a shortest circle, the shortest
/// first.
///
/// # What is unknown
///
/// A statement of which it cannot be told what it locks is listed by [`unknown`](Self::unknown), with the
/// reason: it locks rows by other columns, by ranges or subqueries, or a whole table; its advisory lock has a
/// key that is not written out; its text cannot be read. No inversions mean little then, so
/// [`assert_consistent`](Self::assert_consistent) fails, unless [`allow_unknown`](Self::allow_unknown) says
/// that the rest has been looked at.
///
/// # SQLite
///
/// It has one lock, so nothing can deadlock; but tests run there for code that runs elsewhere. Its writes are
/// taken for the row locks that they would be. Nothing tells a `SELECT` that would lock from one that would
/// not, so a row that was read by its key before it is written says nothing about the order: what is reported
/// is true, and some is missed.
///
/// # What it does not see
///
/// - Locks that no statement names: of foreign keys, triggers, functions and views, on gaps and pages.
/// - That a row which is locked by its key also keeps others from inserting the values of its other unique
///   keys.
/// - What a unit does outside of its `tx`, and on [`Tx::connection`](crate::Tx::connection).
///
/// # Why rows and not tables?
///
/// Checkers for threads tell locks apart by where they are made, so that one transfer that locks two accounts
/// would be suspicious by itself. A database locks what the data says; transfers that are sorted would be
/// condemned with those that are not.
#[derive(Debug, Clone, Default)]
pub struct LockOrder {
    keys: Arc<BTreeMap<String, Vec<String>>>,
    allows_unknown: bool,
    seen: Arc<Mutex<Seen>>,
    /// Held while the catalog is read: the units of others wait for it as well.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    traces: Vec<Arc<Trace>>,
    known: HashSet<Arc<Trace>>,
    unknown: Vec<Unknown>,
    catalog: Arc<Catalog>,
    /// Whether the catalog was asked for all tables that were named.
    has_asked: bool,
    /// How a lock was spelled first, by what all of its spellings have in common.
    spellings: HashMap<Lock, Lock>,
}

impl LockOrder {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which columns tell the rows of a table apart, where that is not its primary key. Several are divided
    /// by commas: `key("item", "tenant, number")`. The table is called as in the statements, with its schema
    /// if they name one.
    ///
    /// Say it before [`on`](Self::on).
    #[must_use]
    pub fn key(mut self, table: &str, columns: &str) -> Self {
        let columns = columns.split(',').map(|column| column.trim().to_lowercase()).collect();
        Arc::make_mut(&mut self.keys).insert(table.to_lowercase(), columns);
        self
    }

    /// Lets [`assert_consistent`](Self::assert_consistent) pass although there are statements that are
    /// [unknown](Self::unknown): their locks were looked at in another way.
    #[must_use]
    pub fn allow_unknown(mut self) -> Self {
        self.allows_unknown = true;
        self
    }

    /// The transactor, watched. What else watches or disturbs it in a test goes around this, as an
    /// exploration of what this gives does.
    #[must_use]
    pub fn on<'a, X: ?Sized>(&self, transactor: &'a X) -> Watched<'a, X> {
        Watched { transactor, order: self.clone() }
    }

    /// What was found in the transactions that have ended, in whatever way.
    #[must_use]
    pub fn inversions(&self) -> Vec<Inversion> {
        let traces = self.seen().traces.clone();
        cycles::cycles(&traces).iter().map(|parts| Inversion::new(parts)).collect()
    }

    /// Statements that may take locks, of which it could not be told what or in which order: each text once.
    /// Where there are some, no inversions does not mean that there are none.
    #[must_use]
    pub fn unknown(&self) -> Vec<Unknown> {
        self.seen().unknown.clone()
    }

    /// Checks that there are no inversions, and that nothing is [unknown](Self::unknown) unless that is
    /// [allowed](Self::allow_unknown).
    ///
    /// # Panics
    ///
    /// When there are inversions, with all of them; or statements that are unknown.
    #[track_caller]
    #[expect(clippy::panic, reason = "it asserts")]
    pub fn assert_consistent(&self) {
        let found: Vec<String> = self.inversions().iter().map(ToString::to_string).collect();
        if !found.is_empty() {
            panic!("locks are taken in orders that can deadlock:\n\n{}", found.join("\n\n"));
        }
        let unknown: Vec<String> = self.unknown().iter().map(ToString::to_string).collect();
        if !unknown.is_empty() && !self.allows_unknown {
            panic!(
                "no two orders of locks were found that can deadlock, but the locks of some statements are \
                 not known; look at them, and say allow_unknown() if they are in order:\n\n{}",
                unknown.join("\n")
            );
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, trace: Trace) {
        if trace.0.len() < 2 {
            return;
        }
        let (trace, mut seen) = (Arc::new(trace), self.seen());
        if seen.known.insert(trace.clone()) {
            seen.traces.push(trace);
        }
    }

    fn add_unknown(&self, unknown: Unknown) {
        let mut seen = self.seen();
        if !seen.unknown.contains(&unknown) {
            seen.has_asked &= unknown.why != Unclear::Keys;
            seen.unknown.push(unknown);
        }
    }

    fn keys(&self) -> Keys {
        Keys { told: self.keys.clone(), catalog: self.seen().catalog.clone() }
    }

    /// Whether another statement spells a lock otherwise that a database may take for this one.
    fn is_spelled_otherwise(&self, dialect: Dialect, lock: &Lock) -> bool {
        let fold = |value: &String| folded(value, dialect == Dialect::MySql);
        let common = match lock {
            Lock::Row { table, columns, values } => Lock::Row {
                table: table.clone(),
                columns: columns.clone(),
                values: values.iter().map(fold).collect(),
            },
            Lock::Advisory(name) => Lock::Advisory(fold(name)),
        };
        self.seen().spellings.entry(common).or_insert_with(|| lock.clone()) != lock
    }

    /// Reads the catalog, unless it is known already.
    async fn read_catalog<DB: Backend, X: Transactor<DB> + ?Sized>(&self, transactor: &X) {
        let _reading = self.reading.lock().await;
        if self.seen().has_asked {
            return;
        }
        let mut reading = Reading::new(Dialect::of::<DB>());
        // Where that fails, tables are unknown, and said to be.
        let _ = transactor.transact(&Options::new().read_only(), &mut reading).await;
        let mut seen = self.seen();
        seen.has_asked = true;
        if let Some(catalog) = reading.catalog {
            seen.catalog = Arc::new(catalog);
        }
    }
}

/// A transactor whose locks are recorded: what [`LockOrder::on`] gives.
#[derive(Debug)]
pub struct Watched<'a, X: ?Sized> {
    transactor: &'a X,
    order: LockOrder,
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for Watched<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        self.order.read_catalog(self.transactor).await;
        // One for each run: the attempts of a run follow each other, while runs are at work side by side.
        let recorder = Recorder::new(self.order.clone(), Dialect::of::<DB>());
        let watched = Options::new().intercepted_by(Arc::new(recorder));
        self.transactor.transact(&options.or(&watched), unit).await
    }
}
