//! One attempt: a transaction that remembers its failures.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "idempotency")]
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backend, Capability, Closing, Engine, WatchedQuery};
use crate::error::Error;
use crate::failure::Failure;
use crate::schema::Schema;
use crate::strategy::Plan;
use crate::telemetry::RunClock;

mod admission;
mod admit;
mod at_commit;
mod unit_fn;
mod deadlock;
mod finish;
mod executor;
mod expect_one;
mod hooks;
mod interception;
mod kept;
mod state;
mod locks;
mod nesting;
mod on_connection;
mod no_connection;
mod opening;
mod probe;
mod right_of_way;
mod row_request;
mod rows;
mod savepoint;
#[cfg(feature = "testing")]
mod savepoint_scope;
mod connection;
mod shielded_commit;

pub(crate) use admission::unreadable;
pub use at_commit::AtCommit;
pub(crate) use at_commit::Expectation;
use at_commit::KeptStatement;
pub(crate) use connection::{ConnectionReuse, EngineCache, PooledSession, engine_of};
use connection::{RefusedConnection, is_opening, refusal_since};
pub(crate) use finish::{CommitOutcome, Unwatched};
pub(crate) use hooks::{Hooks, TxEnd};
use interception::send;
pub(crate) use interception::{Attempts, Interception};
pub(crate) use locks::{MAX_KEPT_KEYS, MAX_KEYS, explain_key, explain_key_failure, locked, select_keys};
pub(crate) use nesting::{holding, holds_connection_of, identity, nested};
pub(crate) use no_connection::{cut_short, is_used_up, not_connected, unreachable_since};
pub(crate) use opening::{NotOpened, OpenRequest};
pub(crate) use right_of_way::{RightOfWay, has_given_way};
#[allow(unreachable_pub, reason = "named by a method of a public trait")]
pub use row_request::RowRequest;
#[cfg(feature = "sea-orm")]
pub(crate) use savepoint::OpenSavepoint;
#[cfg(feature = "testing")]
pub(crate) use savepoint_scope::SavepointScope;
pub(crate) use shielded_commit::Shield;
use state::TxState;
pub use unit_fn::{Repeatable, RowsFn, RowsTxFn, ScopeFn, TxFn, UnitError, UnitFn};

/// An open transaction, on which a unit of work runs its queries.
///
/// `&mut Tx<Postgres>`, `&mut Tx<MySql>` and `&mut Tx<Sqlite>` implement [`sqlx::Executor`], so sqlx's
/// queries run on it as usual (`.fetch_one(&mut *tx)`), and it can be passed to functions
/// (`helper(tx).await`).
///
/// # Failures are remembered
///
/// Every statement and every database error passes through the transaction. After a failure that ends the
/// transaction, later statements are not sent and return that failure, and the transaction is not committed,
/// whatever the unit of work returns. Without this, changes would be lost or partly stored: PostgreSQL
/// responds to the COMMIT of a failed transaction with `ROLLBACK` and no error, and MariaDB continues in
/// autocommit mode after a deadlock. The unit may also wrap an error, turn it into a string or ignore it: the
/// retry loop still sees the conflict.
///
/// # Constraint violations
///
/// MySQL, MariaDB and SQLite undo only the statement and continue the transaction; PostgreSQL ends it. To
/// continue after a violation on every database, avoid the error (`ON CONFLICT`, `INSERT IGNORE`), or run
/// the statement in a [`savepoint`](Self::savepoint).
///
/// # Dropped statements
///
/// Dropping a statement's future before it has completed (`timeout`, `select!`) does not stop the statement
/// on the server, and its result would be read as that of the next statement. The drop therefore ends the
/// transaction. Dropping a *stream* between two rows does not end it.
///
/// # Statements that end a transaction
///
/// `COMMIT`, `ROLLBACK` and similar statements fail before they are sent, even within a text of several
/// statements or between comments: return `Ok` to commit and `Err` to roll back. So do `SET autocommit`,
/// `XA`, savepoints whose names begin with `atomically_`, and, on MySQL and MariaDB, statements that commit
/// implicitly: DDL other than for temporary tables, `LOCK TABLES`, `GRANT`, `ANALYZE TABLE` and
/// [others](https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html). Run such statements on the pool.
///
/// On MySQL and MariaDB a procedure may still commit (`CALL`, `EXECUTE`). The next statement detects that,
/// and the unit fails with [`Aborted`](crate::ErrorKind::Aborted). After a deadlock inside of a procedure, it
/// is unknown whether the procedure had committed before, so the unit is not retried. Put statements that may
/// deadlock into the unit itself.
pub struct Tx<DB: Backend> {
    session: PooledSession<DB>,
    state: TxState,
    hooks: Hooks,
    attempt: u32,
    /// The time at which BEGIN was sent.
    opened: Instant,
    /// The number of open savepoints.
    depth: u32,
    /// The names of the crate's tables.
    schema: Schema,
    /// How the transaction was opened, and the settings to restore at its end.
    closing: Closing,
    /// Whether the session has its own time limit for idling in a transaction.
    limits_idling: bool,
    /// The statements to send with COMMIT.
    kept: Vec<KeptStatement<DB>>,
    /// The rows that the opening has read.
    opened_with: Option<Vec<DB::Row>>,
    /// The last statement, kept if its values may explain its failure.
    latest: Option<WatchedQuery<DB>>,
    /// The earlier attempt that the unit has found to be stored.
    found_attempt: Option<u32>,
    /// Whether the unit has found that no earlier attempt can be stored any more, if unique keys fence.
    fences_earlier: bool,
    interception: Option<Interception>,
}

impl<DB: Backend> Tx<DB> {
    /// Returns the number of this attempt, counted from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Records which earlier attempt the unit has found to be stored, before it returns
    /// [`AlreadyCommitted`](crate::Decision::AlreadyCommitted).
    #[cfg(feature = "idempotency")]
    pub(crate) const fn has_found_attempt(&mut self, number: u32) {
        self.found_attempt = Some(number);
    }

    /// Records that the row of this transaction, or that of another run, keeps earlier attempts from being
    /// stored on an engine whose unique keys fence.
    #[cfg(feature = "idempotency")]
    pub(crate) const fn has_fenced_earlier(&mut self) {
        self.fences_earlier = true;
    }

    /// Returns whether earlier attempts of a unit that finds its own commits can no longer be stored.
    pub(crate) fn fences_earlier(&self) -> bool {
        self.fences_earlier && self.engine().has(Capability::UniqueKeysFence)
    }

    /// Returns the earlier attempt that the unit has found to be stored, if it knows which one.
    pub(crate) const fn found_attempt(&self) -> Option<u32> {
        self.found_attempt
    }

    /// Returns the plan with which this attempt was opened.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.closing.plan
    }

    /// Ends the unit because another worker took over its claim. Call it when an update that is guarded by a
    /// fencing token finds no row.
    ///
    /// ```
    /// # use atomically::{Error, Tx};
    /// # async fn example(tx: &mut Tx<sqlx::Sqlite>, id: i64, token: i64) -> Result<(), Error> {
    /// let done = sqlx::query("UPDATE task SET done = 1 WHERE id = $1 AND token = $2")
    ///     .bind(id)
    ///     .bind(token)
    ///     .execute(&mut *tx)
    ///     .await?;
    /// if done.rows_affected() == 0 {
    ///     return Err(tx.stale_claim("another worker has claimed this task"));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The transaction is rolled back and the unit is not retried, under any strategy. `run` returns an
    /// error with [`is_stale_claim`](crate::Error::is_stale_claim), even if the unit returns another error
    /// or ignores this one.
    pub fn stale_claim(&mut self, message: impl Into<String>) -> Error {
        let failure = Failure::new(crate::failure::FailureKind::StaleClaim, message);
        self.state.end(failure.clone());
        Error::failed(failure, None)
    }

    /// Returns the underlying connection, whose statements and errors the transaction does not see: conflicts
    /// on it may not be retried. For functions that take a connection, use
    /// [`on_connection`](Self::on_connection), which records their errors.
    ///
    /// This method is for operations that an executor cannot do, such as `COPY`.
    ///
    /// - A conflict on the connection is retried only if its sqlx error is converted to an
    ///   [`Error`](crate::Error) within the unit (by `?`, or in a `From` implementation of the unit's error
    ///   type). Otherwise the unit's own error is returned.
    /// - Before the commit and before a rollback, the crate asks the server whether the transaction is still
    ///   open. If something has ended it, the run fails with [`Aborted`](crate::ErrorKind::Aborted) and is
    ///   not retried.
    /// - Do not end the transaction on the connection, and run no DDL on it on MySQL and MariaDB, where DDL
    ///   commits implicitly. PostgreSQL and SQLite do not reveal that the transaction was ended and another
    ///   one begun. MySQL and MariaDB do not reveal that it was ended inside of a savepoint, or immediately
    ///   before a deadlock on the connection.
    /// - On MySQL and MariaDB, a savepoint that is set on the connection is removed by the next statement
    ///   that runs elsewhere.
    /// - Await every future that runs on the connection.
    ///
    /// # Errors
    ///
    /// The failure that ended the transaction, if it has ended.
    pub fn connection(&mut self) -> Result<&mut DB::Connection, Error> {
        if let Some(failure) = self.state.over() {
            return Err(Error::failed(failure.clone(), None));
        }
        self.touch();
        Ok(self.session.connection())
    }

    /// Records that unseen statements are about to run on the connection itself.
    fn touch(&mut self) {
        self.state.mark_unwatched();
        if let Some(interception) = &self.interception {
            interception.unwatched();
        }
        // Left open: COMMIT releases it, and a later savepoint with its name hides it.
        self.state.unreleased = None;
        self.state.distrusts_guard = self.depth == 0 && !self.state.has_savepoints;
    }

    /// Returns whether a part of the unit may be stored despite this failure, so that it must not be
    /// retried.
    pub(crate) fn may_be_stored_in_part(&self, failure: &Failure) -> bool {
        self.state.may_be_stored_in_part::<DB>(failure)
    }

    /// Returns whether unwatched statements ran, or may have run.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.state.is_unwatched()
    }

    /// Ends the transaction with a failure.
    pub(crate) fn end(&mut self, failure: Failure) {
        self.state.end(failure);
    }

    /// Returns the failure that ended the transaction, if it has ended.
    pub(crate) fn over(&mut self) -> Option<&Failure> {
        self.state.over()
    }

    fn closing(&self) -> Closing {
        Closing { unwatched: self.state.is_unwatched(), ..self.closing.clone() }
    }

    /// Returns the failure of the last statement if it violated a unique key.
    pub(crate) fn unique_violation(&self) -> Option<&Failure> {
        self.state.unique_violation()
    }

    /// Returns whether a statement of the unit is in flight.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.state.is_in_flight()
    }

    /// Returns the clock of the run, if it is observed.
    pub(crate) fn run_clock(&self) -> Option<&Arc<RunClock>> {
        self.state.run_clock()
    }

    /// Returns the lock timeout that was set for this transaction.
    #[cfg(feature = "idempotency")]
    pub(crate) fn lock_wait(&self) -> Option<Duration> {
        self.closing.limits.on_locks()
    }

    /// Returns the names of the crate's tables.
    #[cfg(feature = "idempotency")]
    pub(crate) const fn schema(&self) -> Schema {
        self.schema
    }

    /// Returns the engine that the transaction runs on: the product, its version, and what it supports.
    pub fn engine(&self) -> Engine {
        self.closing.engine
    }

    /// Returns whether the server closes idle sessions after a time that this crate has not set.
    pub(crate) const fn limits_idling(&self) -> bool {
        self.limits_idling
    }

    /// Returns the integers that the opening returned.
    pub(crate) fn answered(&self) -> &[i64] {
        &self.closing.saved
    }

    /// Returns whether the connection already keeps prepared statements.
    pub(crate) fn keeps_statements(&mut self) -> bool {
        DB::keeps_statements(self.session.connection())
    }

    pub(crate) fn take_hooks(&mut self) -> Hooks {
        std::mem::take(&mut self.hooks)
    }
}

impl<DB: Backend> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("database", &DB::NAME)
            .field("attempt", &self.attempt)
            .field("plan", &self.closing.plan)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
