//! One attempt: a transaction that remembers.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "idempotency")]
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backend, Closing, WatchedQuery};
use crate::error::Error;
use crate::failure::Failure;
use crate::strategy::Plan;
use crate::telemetry::RunClock;

mod admission;
mod unit_fn;
mod deadlock;
mod finish;
mod executor;
mod expect_one;
mod hooks;
mod interception;
mod state;
mod locks;
mod nesting;
mod on_connection;
mod no_connection;
mod opening;
mod probe;
mod right_of_way;
mod rows;
mod savepoint;
#[cfg(feature = "testing")]
mod scope;
mod connection;
mod shielded_commit;

pub(crate) use admission::unreadable;
use connection::refusal_since;
pub(crate) use connection::{ConnectionReuse, PooledSession};
pub(crate) use finish::{CommitOutcome, Unseen};
pub(crate) use hooks::{Hooks, TxEnd};
use interception::send;
pub(crate) use interception::{Attempts, Interception};
pub(crate) use nesting::{holding, holds_connection_of, identity, nested};
pub(crate) use no_connection::{cut_short, is_used_up, not_connected};
pub(crate) use opening::{NotOpened, Opening};
pub(crate) use right_of_way::{RightOfWay, has_given_way};
#[cfg(feature = "testing")]
pub(crate) use scope::Scope;
pub(crate) use shielded_commit::Shield;
use state::TxState;
pub use unit_fn::{Repeatable, ScopeFn, TxFn, UnitFn};

/// An open transaction: what a unit of work runs its queries on.
///
/// `&mut Tx<Postgres>`, `&mut Tx<MySql>` and `&mut Tx<Sqlite>` are [`sqlx::Executor`]s, so sqlx's queries run
/// on it as they are (`.fetch_one(&mut *tx)`), and it can be handed on (`helper(tx).await`).
///
/// # It remembers
///
/// Every statement and every database error passes through it. Once a statement has failed in a way that the
/// transaction cannot survive, later statements answer the root cause without being sent, and no commit
/// happens, whatever the unit of work returns. This is not pedantry: PostgreSQL answers the COMMIT of a
/// failed transaction with `ROLLBACK` and no error, and MariaDB goes on in autocommit mode after a deadlock,
/// so that half of a unit is stored. The memory also means that an error can be wrapped, turned into a string
/// or thrown away without hiding a conflict from the loop that retries.
///
/// # Constraint violations
///
/// MySQL, MariaDB and SQLite undo the statement alone and go on; PostgreSQL ends the transaction. A unit that
/// wants to go on after one everywhere asks first (`ON CONFLICT`, `INSERT IGNORE`), or tries inside of a
/// [`savepoint`](Self::savepoint).
///
/// # Statements that are dropped
///
/// Dropping a statement's future before it is done (`timeout`, `select!`) does not stop the statement: it
/// runs on in the server, and its answer would be taken for the next one's. The transaction is over from then
/// on. Dropping a *stream* between two rows is fine.
///
/// # Statements that end a transaction
///
/// `COMMIT`, `ROLLBACK` and their kin are refused before they are sent, also as one of several statements in
/// a text and whatever comments surround them: the unit's `Ok` and `Err` say which it is. So are `SET
/// autocommit`, `XA`, savepoints whose names begin with `atomically_`, and, on MySQL and MariaDB, statements
/// that commit implicitly: DDL other than for temporary tables, `LOCK TABLES`, `GRANT`, `ANALYZE TABLE` and
/// [the like](https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html). Run those on the pool.
///
/// A procedure may still commit on its own on MySQL and MariaDB (`CALL`, `EXECUTE`). That is noticed before
/// the next statement, and the unit fails with [`Aborted`](crate::ErrorKind::Aborted). A deadlock inside of
/// the procedure hides whether it had committed before, so the unit is not retried then: put statements that
/// may deadlock into the unit itself.
pub struct Tx<DB: Backend> {
    session: PooledSession<DB>,
    state: TxState,
    hooks: Hooks,
    attempt: u32,
    /// When the server was asked for it.
    opened: Instant,
    /// How many savepoints are open.
    depth: u32,
    /// How it was opened, and what that left to be put back.
    closing: Closing,
    /// The session may idle in its transaction for a limited time only, which nobody has asked for here.
    limits_idling: bool,
    /// The last statement, where its values may explain its failure.
    latest: Option<WatchedQuery<DB>>,
    interception: Option<Interception>,
}

#[cfg(all(feature = "postgres", feature = "queue"))]
impl Tx<sqlx::Postgres> {
    /// Whether the connection keeps prepared statements already, of the program or of this crate.
    pub(crate) fn keeps_statements(&mut self) -> bool {
        sqlx::Connection::cached_statements_size(self.session.connection()) > 0
    }
}

impl<DB: Backend> Tx<DB> {
    /// The number of this attempt, the first being 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How this attempt was opened.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.closing.plan
    }

    /// Ends the unit because something that it had claimed was taken over: the end of every update that is
    /// guarded by a fencing token and finds no row.
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
    ///     return Err(tx.stale_claim("somebody else has this task by now"));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Whatever the unit makes of the error: it is rolled back, it is not run again, whatever the strategy,
    /// and the caller of `run` is told of a [stale claim](crate::Error::is_stale_claim), also in place of an
    /// error of the unit's own.
    pub fn stale_claim(&mut self, message: impl Into<String>) -> Error {
        let failure = Failure::new(crate::failure::FailureKind::StaleClaim, message);
        self.state.end(failure.clone());
        Error::failed(failure, None)
    }

    /// The connection itself, for what an executor cannot do (`COPY`, for example). The transaction does not
    /// see the statements that run on it, nor their errors: run functions that take a connection through
    /// [`on_connection`](Self::on_connection), which does.
    ///
    /// - A conflict there is retried only if its error is turned into an [`Error`](crate::Error) on its way
    ///   out of the unit (by `?`, or in the `From` of an error type of your own); another one comes back as
    ///   the unit's own error.
    /// - The server is asked whether the transaction is still open, before its commit and before a rollback.
    ///   Where something has ended it, the run ends with [`Aborted`](crate::ErrorKind::Aborted) and is not
    ///   retried.
    /// - Do not end the transaction on it, and run no DDL on it on MySQL and MariaDB, which commit before
    ///   they do so. A transaction that is ended there and begun anew is not noticed on PostgreSQL and
    ///   SQLite; one that is ended there, right before a deadlock there, or inside of a savepoint, is not
    ///   noticed on MySQL and MariaDB.
    /// - On MySQL and MariaDB, a savepoint that is set on it is gone with the next statement that does not
    ///   run on it.
    /// - Await every future that you start on it.
    ///
    /// # Errors
    ///
    /// The root cause, once the transaction is over.
    pub fn connection(&mut self) -> Result<&mut DB::Connection, Error> {
        if let Some(failure) = self.state.over() {
            return Err(Error::failed(failure.clone(), None));
        }
        self.touch();
        Ok(self.session.connection())
    }

    /// Notes that statements are about to run on the connection itself, where they are not seen.
    fn touch(&mut self) {
        self.state.mark_unwatched();
        if let Some(interception) = &self.interception {
            interception.unwatched();
        }
        self.state.distrusts_guard = self.depth == 0 && !self.state.has_savepoints;
    }

    /// Whether this failure may hide that a part of the unit is stored, so that the unit must not be run
    /// again.
    pub(crate) fn may_be_stored_in_part(&self, failure: &Failure) -> bool {
        self.state.may_be_stored_in_part::<DB>(failure)
    }

    /// Whether statements ran, or may have run, that were not seen.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.state.is_unwatched()
    }

    /// Ends the transaction early.
    pub(crate) fn end(&mut self, failure: Failure) {
        self.state.end(failure);
    }

    /// What ended the transaction early, if anything did.
    pub(crate) fn over(&mut self) -> Option<&Failure> {
        self.state.over()
    }

    fn closing(&self) -> Closing {
        Closing { unwatched: self.state.is_unwatched(), ..self.closing.clone() }
    }

    /// The unique violation that the last statement met, if that is what it met.
    pub(crate) fn unique_violation(&self) -> Option<&Failure> {
        self.state.unique_violation()
    }

    /// Whether a statement of the unit is on its way.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.state.is_in_flight()
    }

    /// Those who watch the unit, if anybody does.
    pub(crate) fn observation(&self) -> Option<&Arc<RunClock>> {
        self.state.observation()
    }

    /// How long each statement may wait for a lock, as the opening has told the server.
    #[cfg(feature = "idempotency")]
    pub(crate) fn lock_wait(&self) -> Option<Duration> {
        self.closing.limits.on_locks()
    }

    /// Which product it runs on.
    pub(crate) fn engine(&self) -> crate::backend::Engine {
        self.closing.engine
    }

    /// Whether the server closes the session when it idles, by a limit of the session's own.
    pub(crate) const fn limits_idling(&self) -> bool {
        self.limits_idling
    }

    /// What the opening answered.
    pub(crate) fn answered(&self) -> &[i64] {
        &self.closing.saved
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
