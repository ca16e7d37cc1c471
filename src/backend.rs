//! Facts about databases.
//!
//! [`Backend`] states facts and performs nothing: which text opens a transaction, which clause locks a row,
//! what an error means. Its functions are pure and tested without a server. The files of the backends hold
//! the same items in the same order, so that comparing two of them shows how two databases differ.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::deadlock::DeadlockReport;
use crate::failure::{Failure, FailureKind};
use crate::intercept::Fault;
use crate::isolation::Isolation;
use crate::row_lock::{RowLock, WaitPolicy};
use crate::sql_text::{LoneEffect, Statement, Syntax, TransactionEffect};
use crate::strategy::{CommitMarker, Limits, Plan};

mod single_statement;
#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod classification;
mod codec;
mod driver;
mod shown;
mod engine;
mod carried_failure;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod text;
mod values;
mod query;
mod wire;

pub(crate) use carried_failure::{Injected, NotSent, TransactionOver, with_failure};
pub use codec::Key;
pub(crate) use codec::Value;
#[cfg(any(feature = "idempotency", feature = "queue", feature = "testing"))]
pub(crate) use codec::required;
pub(crate) use engine::{AskEngine, Engine};
#[cfg(all(feature = "postgres", feature = "queue"))]
pub(crate) use postgres::prepared::Kept;
pub(crate) use query::{Numbers, Reply, WatchedQuery};
#[cfg(feature = "idempotency")]
pub(crate) use shown::json as shown_json;
pub(crate) use shown::{shown, source as quotable_source};
pub(crate) use single_statement::{AddInOneStatement, Addition};
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) use wire::Driver;
pub(crate) use wire::{ResultOrRow, Wire};

/// The savepoint whose release, just before COMMIT, shows that the transaction is still the one that was
/// opened.
const GUARD: &str = "atomically_guard";

/// A database that units of work can run on: `Postgres`, `MySql` (also for MariaDB) or `Sqlite`.
///
/// This trait is sealed and cannot be implemented outside of this crate: engines that speak one of the three
/// protocols come in through it.
pub trait Backend: Facts {}

mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// The items behind [`Backend`], out of reach of its users so that they may grow.
#[doc(hidden)]
pub trait Facts: Wire + Sealed {
    /// What [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/database/) calls it.
    const SYSTEM: &'static str;

    /// How a server is asked which product it is; `None` where no text depends on it.
    const ASK_ENGINE: Option<AskEngine> = None;

    /// The text that opens a transaction in one round trip, with its limits as far as the server can be told
    /// of them; or what the database does not have.
    fn opening(plan: &Plan, limits: &Limits) -> Result<String, Failure>;

    /// What the opening's answers, as texts, say of the session's own limit for lock waits, where the opening
    /// has set one that was derived from the deadline.
    fn own_lock_timeout(_limits: &Limits, _answers: &[String]) -> Option<OwnLockTimeout> {
        None
    }

    /// The statement, last of the opening, that answers for how long the session may idle in its transaction;
    /// `None` where [`Engine`] says it, or there is no such limit.
    const ASK_IDLE_LIMIT: Option<&'static str> = None;

    /// The text that answers, in the order of [`Closing::saved`], the settings of the session that the
    /// opening changes.
    fn ask_settings(_closing: &Closing) -> Option<String> {
        None
    }

    /// Whether an opening was refused because the connection came from the pool with a transaction open on
    /// it.
    fn found_open_transaction(_failure: &Failure) -> bool {
        false
    }

    /// What to ask when an opening was refused with `failure`, to find out whether the server is one that
    /// takes no writes. It answers 1 if so.
    fn ask_read_only(_failure: &Failure) -> Option<&'static str> {
        None
    }

    /// How it is found out whether a statement has ended its transaction; `None` where none can that is let
    /// through.
    const PROBE: Option<Probe> = None;

    /// How it is found out, at the end of a transaction, whether something had ended it unseen.
    const GUARD: Guard;

    /// Whether a transaction is over after any error that the server has answered in it.
    const EVERY_ERROR_ABORTS: bool = false;

    /// Whether a transaction that failed like this is gone from the server, and its guard with it.
    fn rolls_back_everything(_failure: &Failure) -> bool {
        false
    }

    /// The texts that commit.
    fn commit(closing: &Closing) -> Ending;

    /// The text that rolls back.
    fn rollback(closing: &Closing) -> Cow<'static, str>;

    /// The text that undoes what was done since a savepoint, which need not be there afterwards.
    fn rollback_to(savepoint: &str) -> String {
        format!("ROLLBACK TO SAVEPOINT {savepoint}; RELEASE SAVEPOINT {savepoint}")
    }

    /// Whether a refused COMMIT leaves nothing to roll back.
    const REFUSED_COMMIT_ENDS_TRANSACTION: bool;

    /// How a session that comes from the pool is made ready for a statement that is its own transaction;
    /// `None` where every session is.
    const BEFORE_LONE_STATEMENT: Option<BeforeLoneStatement> = None;

    /// The clause that locks the rows of a SELECT; `None` where the database has no row locks.
    fn lock_clause(lock: RowLock) -> Option<Cow<'static, str>>;

    /// How its texts are read.
    const SYNTAX: Syntax;

    /// Whether this connection already keeps prepared statements, the caller's or this crate's.
    fn keeps_statements(_connection: &Self::Connection) -> bool {
        true
    }

    /// Whether a text that is prepared holds one statement: the server refuses others.
    const PREPARES_ONE_STATEMENT: bool;

    /// Whether several statements that are sent as one text, without a transaction around them, are one
    /// transaction.
    const TEXT_IS_ONE_TRANSACTION: bool;

    /// What commits after a statement that is no transaction by itself, and may have left one open on its
    /// connection: a procedure that has begun one. The connection is closed then. `None` where none can.
    const AFTER_CALL: Option<&'static str> = None;

    /// Whether a statement that violates a constraint may be stored in part, by what a table or a trigger
    /// says.
    const VIOLATIONS_KEEP_PARTS: bool = false;

    /// What a statement does to the transaction that it runs in.
    fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect;

    /// What a statement is when it runs on its own.
    fn lone_effect(statement: &Statement<'_>) -> LoneEffect;

    /// The parameter with this number, counted from 1.
    fn placeholder(number: usize) -> Cow<'static, str>;

    /// The statement that acquires an advisory lock until the transaction ends, and returns 1 when it has
    /// it; `None` if the database has no such locks. Without `wait` it returns 0 at once if another session
    /// holds the lock.
    fn advisory_lock(key: u64, wait: Option<Duration>) -> Option<String>;

    /// Whether what is read behind an advisory lock, at this level, may be older than the lock: then it
    /// protects nothing.
    fn snapshot_age(_isolation: Isolation) -> SnapshotAge {
        SnapshotAge::Younger
    }

    /// Whether an advisory lock that was taken inside of a savepoint's scope is given back with it.
    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool;

    /// Whether a transaction that has written a unique key can be sure that no other one with the same key
    /// commits any more. On the nodes of a Galera cluster that is only certain at the commit.
    fn unique_keys_fence(_engine: Engine) -> bool {
        true
    }

    /// The text that makes what is missing of a schema, and touches nothing of what is there.
    fn creation(schema: &'static str) -> String {
        schema.to_owned()
    }

    /// What puts back the settings of the session where a [creation](Self::creation) has changed some and
    /// failed.
    const AFTER_CREATION_FAILED: Option<&'static str> = None;

    /// The table of operations, made where it is missing.
    const CREATE_OPERATIONS: &'static str;

    /// The statement, last of the opening, by which a transaction can be found again; or what the database
    /// does not have.
    fn marker(marker: CommitMarker) -> Result<String, Failure>;

    /// The statement that asks for the transaction whose marker answered this. It answers its
    /// [`TransactionStatus`] and, as 1 or 0, whether that may be believed.
    fn ask_for_status(_answered: &[i64]) -> Option<String> {
        None
    }

    /// The statement that removes up to a thousand operations that are older than this.
    fn purge_operations(older_than: Duration) -> String;

    /// What a `CAST` to an `i64` is spelled like.
    const INTEGER: &'static str;

    /// The statement that adds to a column of many rows. A row whose key comes twice is changed by the first
    /// of the two, and the second one adds 0.
    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, sqlx::error::BoxDynError>;

    /// How numbers are added to in one round trip; `None` where it takes more, or with keys of this type.
    fn add_in_one_statement<K: Key<Self>>(_target: Target) -> Option<Box<dyn AddInOneStatement<Self, K>>> {
        None
    }

    /// What the server said, taken out of the driver's error; `None` for another driver's.
    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>>;

    /// What it means.
    fn classify(report: &ServerReport<'_>) -> Failure;

    /// What is left of a transaction after this failure.
    fn after(failure: &Failure) -> Survival;

    /// The statement that asks a server which session this is; `None` where there is no server.
    const SESSION: Option<&'static str>;

    /// How it is found out which of these sessions wait for locks; `None` where waiting is not the server's
    /// business.
    fn lock_waits(sessions: &[i64]) -> Option<LockWaits>;

    /// How to ask for the report of a deadlock that has just rolled back the session's transaction, at most
    /// `age` ago; `None` if the error contains the report, or the database keeps none.
    fn latest_deadlock(_age: Duration) -> Option<LatestDeadlock> {
        None
    }

    /// How a fault is brought about; `None` for one of the network's, which needs no database.
    fn provoke(fault: Fault) -> Option<Provocation>;

    /// The values of a statement, taken from how the driver shows its arguments to programmers: it has no
    /// other way of showing them. `None` when they cannot be made out.
    fn shown_arguments(arguments: &str) -> Option<Vec<String>>;

    /// What these options connect to, without secrets: `127.0.0.1:5432`.
    fn address(options: &ConnectOptions<Self>) -> String;

    /// Whether closing the last connection loses the data: SQLite in memory.
    fn lives_in_its_connection(_options: &ConnectOptions<Self>) -> bool {
        false
    }
}

type ConnectOptions<DB> = <<DB as sqlx::Database>::Connection as sqlx::Connection>::Options;

/// The session's own limit for lock waits.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLockTimeout {
    /// None where it waits for ever.
    pub limit: Option<Duration>,
    /// The text that corrects what the opening has set in ignorance of it.
    pub correction: Option<String>,
}

/// A column of numbers, and the column by which its rows are told apart. They go into statements as they are.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The table.
    pub table: &'static str,
    /// The column with the keys.
    pub key: &'static str,
    /// The column with the numbers.
    pub column: &'static str,
}

/// When a transaction takes its snapshot, seen from an advisory lock.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAge {
    /// After the lock was granted, or with each statement anew.
    Younger,
    /// With the first statement that reads.
    OfTheFirstStatement,
    /// Before the lock is waited for.
    Older,
}

/// What the text that ends a transaction depends on.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Closing {
    /// Which product it runs on.
    pub engine: Engine,
    /// How it was opened.
    pub plan: Plan,
    /// With which limits.
    pub limits: Limits,
    /// What the opening answered: session settings to put back, in the order in which it asked for them.
    pub saved: Vec<i64>,
    /// The advisory locks that were taken.
    pub advisory_locks: Vec<u64>,
    /// Statements ran that were not seen, or not seen to their end.
    pub unwatched: bool,
}

impl Closing {
    pub(crate) const fn new(engine: Engine, plan: Plan, limits: Limits) -> Self {
        Self { engine, plan, limits, saved: Vec::new(), advisory_locks: Vec::new(), unwatched: false }
    }
}

/// How it is found out whether the transaction that is open is still the one that was opened.
#[doc(hidden)]
#[derive(Debug)]
pub struct Guard {
    /// Only a rollback may follow it.
    pub sql: &'static str,
    /// Whether the answer, which is a failure or none, shows that something has ended the transaction.
    pub has_ended: fn(Option<&Failure>) -> bool,
}

/// A savepoint around a statement that may end its transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe {
    /// Sets it.
    pub set: &'static str,
    /// Fails as [`Aborted`](FailureKind::Aborted) if it is gone.
    pub release: &'static str,
    /// Sets the guard anew, after it was looked at.
    pub reset: &'static str,
}

/// The texts that commit, each sent in a packet of its own, and where in the answers the commit is
/// acknowledged.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Fails if the transaction is not the one that was opened. COMMIT is not sent then.
    pub guard: Option<Cow<'static, str>>,
    /// One or more statements, COMMIT among them.
    pub sql: Cow<'static, str>,
    /// How many answers come before that of COMMIT.
    pub before_commit: usize,
    /// Puts the session's settings back, whatever became of the commit.
    pub after: Option<Cow<'static, str>>,
}

/// How a session is made ready for a statement that is its own transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct BeforeLoneStatement {
    /// Answers 1 if the session commits each statement by itself.
    pub ask: &'static str,
    /// Has it do so.
    pub set: &'static str,
    /// Undoes that.
    pub put_back: &'static str,
}

/// How servers are made to answer for the state of a transaction.
#[derive(Debug)]
pub(crate) struct TransactionStatus;

impl TransactionStatus {
    /// It is stored.
    pub(crate) const COMMITTED: i64 = 1;
    /// It is not, and never will be.
    pub(crate) const ABORTED: i64 = 2;
    /// It has not ended.
    pub(crate) const IN_PROGRESS: i64 = 3;
}

/// What a server said about a statement, as the drivers show it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerReport<'a> {
    /// SQLSTATE. On SQLite, nothing.
    pub sqlstate: &'a str,
    /// The error number of MySQL and MariaDB, the extended result code of SQLite.
    pub number: u32,
    /// The text, in the server's language.
    pub message: &'a str,
    /// PostgreSQL's FATAL and PANIC: the session is over.
    pub fatal: bool,
    /// The statement asked not to wait for locks. Servers use one code for that and for a timeout.
    pub nowait: bool,
    /// PostgreSQL's own fields.
    pub constraint: Option<&'a str>,
    /// The table named in the fields.
    pub table: Option<&'a str>,
    /// The column named in the fields.
    pub column: Option<&'a str>,
    /// The detail, of one or more lines.
    pub detail: Option<&'a str>,
    /// What the statement was at, innermost first.
    pub context: Option<&'a str>,
    /// The function of the server that raised it.
    pub routine: Option<&'a str>,
}

/// What is left of a transaction after a failed statement.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// The statement was undone, the transaction goes on.
    Open,
    /// Nobody can tell without asking: this statement fails if, and only if, the transaction is still open.
    Ask(&'static str),
    /// The transaction is over, or must not be gone on with.
    Over,
}

/// How a server is asked who waits for locks.
#[doc(hidden)]
#[derive(Debug)]
pub struct LockWaits {
    /// One or more statements, sent as one.
    pub sql: String,
    /// What the last column of each row says.
    pub read: fn(&str) -> Vec<LockWait>,
}

/// A session that waits for a lock.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockWait {
    /// Who waits.
    pub session: i64,
    /// For whom, as far as the server says.
    pub blocked_by: Vec<i64>,
    /// For what, in the server's words.
    pub lock: String,
}

/// How a server is asked for the latest deadlock of the session that asks.
#[doc(hidden)]
#[derive(Debug)]
pub struct LatestDeadlock {
    /// One or more statements, sent as one.
    pub sql: String,
    /// Reads the last column of each row, given the statement that failed if it is known: returns the report,
    /// and the statement by which the session remembers that it has read it. `None` if the deadlock is not
    /// one of this session, or was read before.
    pub read: fn(&[String], Option<&str>) -> FoundDeadlock,
}

/// A report, and the statement by which the session remembers that it has read it.
type FoundDeadlock = Option<(DeadlockReport, String)>;

/// How a fault is brought about.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provocation {
    /// By a text that makes the server raise it, and leaves the transaction as it does.
    Send(&'static str),
    /// By an error without a server: a statement that fails like this has done nothing.
    Pretend(FailureKind),
}

/// What a driver's error says about the database; `None` where it only says something about the caller (a row
/// that was not found, a value that did not decode).
pub(crate) fn failure_of<DB: Facts>(error: &sqlx::Error, nowait: bool) -> Option<Failure> {
    match error {
        sqlx::Error::Database(error) => carried_failure::failure(error.as_ref()).or_else(|| {
            let report = DB::report(error.as_ref())?;
            Some(DB::classify(&ServerReport { nowait, ..report }))
        }),
        error => driver::failure(error),
    }
}

/// The same, for whom there always has to be one.
pub(crate) fn failure_or_other<DB: Facts>(error: &sqlx::Error) -> Failure {
    failure_of::<DB>(error, false).unwrap_or_else(|| Failure::new(FailureKind::Other, shown(error)))
}

/// The same, where the error does not say which database it comes from.
pub(crate) fn failure_of_any(error: &sqlx::Error) -> Option<Failure> {
    let failure = driver::failure(error);
    #[cfg(feature = "postgres")]
    let failure = failure.or_else(|| failure_of::<sqlx::Postgres>(error, false));
    #[cfg(feature = "mysql")]
    let failure = failure.or_else(|| failure_of::<sqlx::MySql>(error, false));
    #[cfg(feature = "sqlite")]
    let failure = failure.or_else(|| failure_of::<sqlx::Sqlite>(error, false));
    failure
}

/// A locking clause, the table that it names, and what it does about rows that others have locked: the same
/// words everywhere.
fn whole_clause(clause: &'static str, lock: RowLock) -> Cow<'static, str> {
    let wait = match lock.wait {
        WaitPolicy::Block => "",
        WaitPolicy::Refuse => " NOWAIT",
        WaitPolicy::Skip => " SKIP LOCKED",
    };
    match lock.table {
        Some(table) => format!("{clause} OF {table}{wait}").into(),
        None if wait.is_empty() => clause.into(),
        None => format!("{clause}{wait}").into(),
    }
}

/// [`Facts::add_to_rows`] where an UPDATE can be joined to a list of values.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn add_listed<DB, K>(
    target: Target,
    changes: &[(&K, i64)],
) -> Result<WatchedQuery<DB>, sqlx::error::BoxDynError>
where
    DB: Facts,
    K: Key<DB>,
    i64: Key<DB>,
{
    use sqlx::{Arguments as _, SqlSafeStr as _};

    let Target { table, key, column } = target;
    let mut arguments = DB::Arguments::default();
    let mut values = Vec::with_capacity(changes.len());
    for (i, (id, delta)) in changes.iter().enumerate() {
        arguments.add(*id)?;
        arguments.add(*delta)?;
        values.push(format!("({}, {})", DB::placeholder(2 * i + 1), DB::placeholder(2 * i + 2)));
    }
    let values = values.join(", ");
    let sql = format!(
        "WITH change (id, delta) AS (VALUES {values}) \
         UPDATE {table} AS target SET {column} = target.{column} + change.delta FROM change \
         WHERE target.{key} = change.id AND change.delta <> 0"
    );
    Ok(WatchedQuery::made_of(sqlx::AssertSqlSafe(sql).into_sql_str(), arguments))
}

/// Milliseconds to tell a server, rounded up: 0 means "no limit" to all of them. None of them takes more than
/// fit into 31 bits, which is 24 days.
pub(crate) fn whole_millis(limit: Duration) -> u128 {
    limit.as_micros().div_ceil(1000).clamp(1, i32::MAX as u128)
}

/// A year: the longest wait that servers accept.
const MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Seconds to tell a server, rounded up: 0 means "no wait" to one variable and "no limit" to another.
pub(crate) fn whole_seconds(limit: Duration) -> u64 {
    limit.as_secs().saturating_add(u64::from(limit.subsec_nanos() > 0)).clamp(1, MAX_SECONDS)
}
