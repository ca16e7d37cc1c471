//! Detects deadlocks before they happen, from the order in which transactions acquire locks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::backend::Backend;
use crate::error::Error;
use crate::sql_text::Syntax;
use crate::transactor::{Ended, Options, Transactor, Unit};

mod advisory;
mod catalog;
mod clause;
mod cycles;
mod effect;
mod names;
mod recorder;
mod report;
mod rows;
mod sql;
mod trace;
mod values;
mod writes;

use catalog::{Catalog, CatalogQuery};
pub(in crate::testing) use clause::{Clause, take_clauses};
use effect::Lock;
pub(in crate::testing) use names::{last_name, name_of};
use recorder::TraceRecorder;
pub use report::{AcquisitionOrder, Inversion, Locked, UnknownLocks, UnknownReason};
use rows::TableKeys;
pub(in crate::testing) use sql::dialect;
use trace::Trace;
use values::normalized;
pub(in crate::testing) use values::value_of;

/// Records the order in which transactions acquire locks and reports the orders that could deadlock.
///
/// It finds two opposite orders even if the transactions run one after the other, long before two of them
/// meet.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), atomically::Error> {
/// use atomically::testing::LockOrder;
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect("sqlite::memory:").await?;
/// # let create = "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)";
/// # sqlx::query(create).execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
/// let order = LockOrder::new();
/// let db = order.on(&db);
/// for (from, to) in [(1, 2), (2, 1)] {
///     db.run(async |tx| -> Result<_, Error> {
///         let add = "UPDATE account SET balance = balance + $1 WHERE id = $2";
///         sqlx::query(add).bind(-5).bind(from).execute(&mut *tx).await?;
///         sqlx::query(add).bind(5).bind(to).execute(&mut *tx).await?;
///         Ok(())
///     })
///     .await?;
/// }
/// let inversions = order.inversions();
/// assert_eq!(
///     inversions[0].to_string(),
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
/// To fix an inversion, lock all rows first with [`Tx::lock_rows`](crate::Tx::lock_rows), or let all
/// transactions acquire a common lock first.
///
/// Clones share their recordings, and one `LockOrder` can watch several transactors of the same database.
///
/// # Which locks are recorded
///
/// - A *row*, identified by its table and key. It is locked by `SELECT … FOR UPDATE` and the weaker clauses,
///   by `UPDATE`, by `DELETE`, and by `INSERT`, because another `INSERT` of the same key waits for it. The
///   statement must identify the row by `column = value` or `column IN (values)` for each key column, alone
///   or joined by `AND`. The row need not exist, because the order is a property of the code and not of the
///   current data.
/// - An *entry in another unique key*: an `INSERT`, or an `UPDATE` of the key's columns, keeps other
///   transactions from writing the same value until it ends.
/// - An *advisory lock*, acquired by [`Tx::advisory_lock`](crate::Tx::advisory_lock) or by a function of the
///   database. One that belongs to the session is held until it is unlocked.
///
/// Tables and their keys are read from the catalog, in a transaction of its own before the first watched
/// unit, and again after a statement has named an unknown table. [`key`](Self::key) declares another key.
///
/// A lock that the transaction already holds is not acquired again. A lock that was refused (`NOWAIT`) is not
/// held. Rolling back to a savepoint releases the locks that were acquired since; MySQL and MariaDB keep them
/// unless the savepoint was the first statement. Transactions that roll back are recorded as well.
///
/// # What an inversion is
///
/// A cycle of transactions each of which may request a lock that the next one holds, provided that all of
/// them can be there at the same time:
///
/// - Locks that do not exclude each other cause no wait, so two orders of shared locks are not an inversion.
///   A lock that is acquired shared and then exclusively is an inversion by itself, if two transactions can
///   share it.
/// - Two transactions that both hold another, exclusive lock at that point never meet: such a *gate* in front
///   of two orders suppresses the inversion. It must be a lock that is recorded here, and the answer to its
///   statement must show that it was granted. An `UPDATE` that found no row, a row that was skipped
///   (`SKIP LOCKED`), or a failed try for a lock is not a gate.
/// - A request that does not wait (`NOWAIT`, `SKIP LOCKED`, `try_advisory_lock`) waits for nothing, but other
///   transactions may wait for its lock.
///
/// Several rows that one statement locks are ordered if its `ORDER BY` sorts them by key (numbers by value,
/// everything else by its bytes), or if it inserts them. Otherwise the server chooses the order, often that
/// of an index. No order among them is assumed then, and [`unknown`](Self::unknown) lists the statement. If
/// such statements counted as inversions, every `UPDATE … WHERE id IN (1, 2)` that runs twice would be one.
///
/// Each inversion is reported once, however many rows show it: a shortest cycle for each order, the shortest
/// ones first.
///
/// # Unknown locks
///
/// [`unknown`](Self::unknown) lists the statements whose locks could not be determined, with the reason: a
/// statement selects rows by other columns, by ranges or by subqueries; it locks a whole table; the key of
/// its advisory lock is not a value; or its text cannot be parsed. As such statements may be part of
/// inversions, [`assert_consistent`](Self::assert_consistent) fails, unless
/// [`allow_unknown`](Self::allow_unknown) accepts them.
///
/// # SQLite
///
/// SQLite has a single lock and cannot deadlock, but code that runs on another database may be tested on it.
/// Writes are recorded as the row locks that they would be elsewhere. A `SELECT` that would lock rows cannot
/// be distinguished from one that would not, so a row that is read by its key before it is written implies no
/// order. Every reported inversion is real, and some are missed.
///
/// # Limits
///
/// The following locks are not recorded:
///
/// - locks that no statement names: of foreign keys, triggers, functions and views, and on gaps and pages
/// - the entries of a locked row in its other unique keys, which also keep others from inserting their values
/// - locks that a unit acquires outside of its `tx`, or on [`Tx::connection`](crate::Tx::connection)
///
/// # Why rows and not tables?
///
/// Lock order checkers for threads identify a lock by the location in the code that creates it. By that rule,
/// a transfer that locks two accounts would be an inversion by itself. A database locks the rows that the
/// data selects, so sorted transfers must be distinguished from unsorted ones.
#[derive(Debug, Clone, Default)]
pub struct LockOrder {
    declared_keys: Arc<BTreeMap<String, Vec<String>>>,
    allows_unknown: bool,
    recorded: Arc<Mutex<Recorded>>,
    /// Held while the catalog is read, so that concurrent units wait for it.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// Each trace once, in the order in which the transactions ended.
    traces: Vec<Arc<Trace>>,
    distinct: HashSet<Arc<Trace>>,
    unknown: Vec<UnknownLocks>,
    catalog: Arc<Catalog>,
    /// Whether the catalog was read after the last unknown table.
    is_catalog_current: bool,
    /// The first spelling of each lock, by its normalized form.
    spellings: HashMap<Lock, Lock>,
}

impl LockOrder {
    /// Creates a recorder without recordings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares the columns that identify the rows of a table, in place of its primary key.
    ///
    /// Several columns are separated by commas: `key("item", "tenant, number")`. The table is named as in the
    /// statements, with its schema if they include one. Call this before [`on`](Self::on).
    #[must_use]
    pub fn key(mut self, table: &str, columns: &str) -> Self {
        let columns = columns.split(',').map(|column| column.trim().to_lowercase()).collect();
        Arc::make_mut(&mut self.declared_keys).insert(table.to_lowercase(), columns);
        self
    }

    /// Lets [`assert_consistent`](Self::assert_consistent) pass in spite of [unknown](Self::unknown) locks,
    /// after you have reviewed those statements.
    #[must_use]
    pub fn allow_unknown(mut self) -> Self {
        self.allows_unknown = true;
        self
    }

    /// Returns a transactor that records the locks of its units.
    ///
    /// To combine it with [`Faults`](super::Faults) or an [exploration](super::explore()), apply those to the
    /// transactor that this returns.
    #[must_use]
    pub fn on<'a, X: ?Sized>(&self, transactor: &'a X) -> Watched<'a, X> {
        Watched { transactor, order: self.clone() }
    }

    /// Returns the inversions among all transactions that have ended so far, committed or not.
    #[must_use]
    pub fn inversions(&self) -> Vec<Inversion> {
        let traces = self.recorded().traces.clone();
        cycles::cycles(&traces).iter().map(|parts| cycles::inversion(parts)).collect()
    }

    /// Returns the statements whose locks, or their order, could not be determined; each text once.
    ///
    /// If there are any, an empty list of [inversions](Self::inversions) proves nothing about them.
    #[must_use]
    pub fn unknown(&self) -> Vec<UnknownLocks> {
        self.recorded().unknown.clone()
    }

    /// Asserts that there are no inversions and no [unknown](Self::unknown) locks, unless those are
    /// [allowed](Self::allow_unknown).
    ///
    /// # Panics
    ///
    /// With all inversions, or with all statements whose locks are unknown.
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
                "no inversion was found, but the locks of some statements are unknown; review them, and \
                 accept them with allow_unknown():\n\n{}",
                unknown.join("\n")
            );
        }
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, trace: Trace) {
        if trace.0.len() < 2 {
            return;
        }
        let (trace, mut recorded) = (Arc::new(trace), self.recorded());
        if recorded.distinct.insert(trace.clone()) {
            recorded.traces.push(trace);
        }
    }

    fn add_unknown(&self, unknown: UnknownLocks) {
        let mut recorded = self.recorded();
        if !recorded.unknown.contains(&unknown) {
            recorded.is_catalog_current &= unknown.reason != UnknownReason::Keys;
            recorded.unknown.push(unknown);
        }
    }

    fn keys(&self) -> TableKeys {
        TableKeys { declared: self.declared_keys.clone(), catalog: self.recorded().catalog.clone() }
    }

    /// Whether an earlier statement spelled differently what may be the same lock.
    fn is_spelled_differently(&self, syntax: Syntax, lock: &Lock) -> bool {
        let normalize = |value: &String| normalized(value, syntax == Syntax::MySql);
        let form = match lock {
            Lock::Row { table, columns, values } => Lock::Row {
                table: table.clone(),
                columns: columns.clone(),
                values: values.iter().map(normalize).collect(),
            },
            Lock::Advisory(name) => Lock::Advisory(normalize(name)),
        };
        self.recorded().spellings.entry(form).or_insert_with(|| lock.clone()) != lock
    }

    /// Reads the catalog, unless that was done before.
    async fn read_catalog<DB: Backend, X: Transactor<DB> + ?Sized>(&self, transactor: &X) {
        let _reading = self.reading.lock().await;
        if self.recorded().is_catalog_current {
            return;
        }
        let mut query = CatalogQuery::new(DB::SYNTAX);
        // If it fails, the tables are reported as unknown.
        let _ = transactor.transact(&Options::new().read_only(), &mut query).await;
        let mut recorded = self.recorded();
        recorded.is_catalog_current = true;
        if let Some(catalog) = query.catalog {
            recorded.catalog = Arc::new(catalog);
        }
    }
}

/// A transactor whose locks are recorded, returned by [`LockOrder::on`].
#[derive(Debug)]
pub struct Watched<'a, X: ?Sized> {
    transactor: &'a X,
    order: LockOrder,
}

#[async_trait]
impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for Watched<'_, X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        self.order.read_catalog(self.transactor).await;
        // A recorder for each run, because runs are concurrent while the attempts of one run are not.
        let recorder = TraceRecorder::new(self.order.clone(), DB::SYNTAX);
        let watched = Options::new().intercepted_by(Arc::new(recorder));
        self.transactor.transact(&options.or(&watched), unit).await
    }
}
