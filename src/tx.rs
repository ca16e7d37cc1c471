//! One attempt: a transaction that remembers.

use std::fmt::{self, Write as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, Closing, Reply, failure_or_other};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::intercept::{Interceptors, StepKind};
use crate::observe::{Observation, counted};
use crate::policy::{Limits, Plan, Trace};

mod admission;
mod body;
mod deadlock;
mod ending;
mod executor;
mod hooks;
mod interception;
mod journal;
mod locks;
mod nesting;
mod probe;
mod rows;
mod savepoint;
#[cfg(feature = "testing")]
mod scope;
mod session;
mod shield;

pub(crate) use admission::unreadable;
pub use body::{Repeatable, TxFn};
pub(crate) use ending::{Commit, Unseen};
pub(crate) use hooks::{End, Hooks};
pub(crate) use interception::Interception;
use interception::send;
use journal::Journal;
pub(crate) use nesting::{holding, holds_connection_of, identity, nested};
#[cfg(feature = "testing")]
pub(crate) use scope::Scope;
pub(crate) use session::{Handoff, Session};
pub(crate) use shield::Shield;

/// An open transaction: what a unit of work runs its queries on.
///
/// `&mut Tx<Postgres>`, `&mut Tx<MySql>` and `&mut Tx<Sqlite>` are [`sqlx::Executor`]s, so sqlx's queries run on it as
/// they are (`.fetch_one(&mut *tx)`), and it can be handed on (`helper(tx).await`).
///
/// # It remembers
///
/// Every statement and every database error passes through it. Once a statement has failed in a way that the
/// transaction cannot survive, later statements answer the root cause without being sent, and no commit happens,
/// whatever the unit of work returns. This is not pedantry: PostgreSQL answers the COMMIT of a failed transaction with
/// `ROLLBACK` and no error, and MariaDB goes on in autocommit mode after a deadlock, so that half of a unit is stored.
/// The memory also means that an error can be wrapped, turned into a string or thrown away without hiding a conflict
/// from the loop that retries.
///
/// # Constraint violations
///
/// MySQL, MariaDB and SQLite undo the statement alone and go on; PostgreSQL ends the transaction. A unit that wants to
/// go on after one everywhere asks first (`ON CONFLICT`, `INSERT IGNORE`), or tries inside of a
/// [`savepoint`](Self::savepoint).
///
/// # Statements that are dropped
///
/// Dropping a statement's future before it is done (`timeout`, `select!`) does not stop the statement: it runs on in
/// the server, and its answer would be taken for the next one's. The transaction is over from then on. Dropping a
/// *stream* between two rows is fine.
///
/// # Statements that end a transaction
///
/// `COMMIT`, `ROLLBACK` and their kin are refused before they are sent, also as one of several statements in a text and
/// whatever comments surround them: the unit's `Ok` and `Err` say which it is. So are `SET autocommit`, `XA`, savepoints
/// whose names begin with `atomically_`, and, on MySQL and MariaDB, statements that commit implicitly: DDL other than for
/// temporary tables, `LOCK TABLES`, `GRANT`, `ANALYZE TABLE` and [the
/// like](https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html). Run those on the pool.
///
/// A procedure may still commit on its own on MySQL and MariaDB (`CALL`, `EXECUTE`). That is noticed before the next
/// statement, and the unit fails with [`Aborted`](crate::ErrorKind::Aborted). A deadlock inside of the procedure hides
/// whether it had committed before, so the unit is not retried then: put statements that may deadlock into the unit
/// itself.
pub struct Tx<DB: Backend> {
    session: Session<DB>,
    journal: Journal,
    hooks: Hooks,
    attempt: u32,
    /// When the server was asked for it.
    opened: Instant,
    /// How many savepoints are open.
    depth: u32,
    /// How it was opened, and what that left to be put back.
    closing: Closing,
    interception: Option<Interception>,
}

/// How a transaction is to be opened.
pub(crate) struct Opening {
    pub(crate) plan: Plan,
    pub(crate) attempt: u32,
    pub(crate) trace: Option<Trace>,
    pub(crate) interceptors: Interceptors,
    pub(crate) observation: Option<Arc<Observation>>,
}

/// Why no transaction could be opened.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) failure: Failure,
    /// The connection came from the pool and turned out to be dead: another one may do.
    pub(crate) stale_connection: bool,
}

impl<DB: Backend> Tx<DB> {
    /// Takes a connection and opens a transaction on it, in one round trip.
    ///
    /// It comes in a box: it goes through a few hands, and each would take its room once more in the future of every run.
    ///
    /// Cancellation: the connection is closed, so that no half-open transaction gets back into the pool.
    pub(crate) async fn open(
        pool: &Pool<DB>,
        handoff: &Handoff<DB>,
        opening: Opening,
        remaining: impl Fn() -> Limits,
    ) -> Result<Box<Self>, NotOpened> {
        let Opening { plan, attempt, trace, interceptors, observation } = opening;
        let asks_session =
            observation.as_ref().and_then(|watched| DB::SESSION.filter(|_| watched.wants_sessions()));
        let text = |limits: &Limits| {
            let mut opening = DB::opening(&plan, limits)?;
            if let Some(session) = asks_session {
                let _ = write!(opening, "; {session}");
            }
            // Last: behind the first write, a statement would need a packet of its own on a Galera cluster.
            if let Some(trace) = trace {
                let _ = write!(opening, "; {}", DB::trace(trace)?);
            }
            Ok(opening)
        };
        // What the database does not have is told before anything is waited for.
        let (mut limits, asked) = (remaining(), Instant::now());
        let mut opening = text(&limits).map_err(NotOpened::because)?;
        let watched = observation.as_deref();
        let acquiring = Session::acquire(pool, handoff);
        let mut session = counted(watched, |times| &mut times.pool, pin!(acquiring))
            .await
            .map_err(|error| NotOpened::because(not_connected::<DB>(&error)))?;
        // What is left of the time is less by what a wait for a connection took; servers count in milliseconds.
        if asked.elapsed() >= Duration::from_millis(1) {
            limits = remaining();
            opening = text(&limits).map_err(NotOpened::because)?;
        }
        let engine = session.engine().await.map_err(|error| NotOpened::on_connection::<DB>(&error))?;
        let interception = if interceptors.is_empty() {
            None
        } else {
            Some(Interception::new::<DB>(interceptors, attempt, session.connection()).await)
        };
        let mut closing = Closing::new(engine, plan, limits);
        let (begin, connected) = (Begin { session: &mut session, by: interception.as_ref() }, Instant::now());
        let begin = begin.send(opening, &closing);
        let mut reply = counted(watched, |times| &mut times.control, pin!(begin)).await;
        if let (Some(observation), None) = (&observation, &reply.error) {
            let number =
                asks_session.filter(|_| !reply.integers.is_empty()).map(|_| reply.integers.remove(0));
            let session = number.map(|number| (identity(pool), number));
            observation.opened(connected - asked, connected.elapsed(), session);
        }
        closing.saved = reply.integers;
        if !closing.saved.is_empty() {
            session.cured_by(DB::rollback(&closing));
        }
        let (mut journal, hooks) = (Journal::new(observation), Hooks::default());
        journal.takes_one_at_a_time = engine.is_galera;
        journal.is_streaming = session.streaming();
        let mut tx = Box::new(Self {
            session,
            journal,
            hooks,
            attempt,
            opened: connected,
            depth: 0,
            closing,
            interception,
        });
        let Some(error) = reply.error else { return Ok(tx) };
        let failure = tx.why_not_opened(failure_or_other::<DB>(&error)).await;
        let stale_connection = failure.kind() == FailureKind::ConnectionLost;
        tx.journal.end(failure.clone());
        tx.rollback().await;
        Err(NotOpened { failure, stale_connection })
    }

    /// A server that takes no writes may refuse to open a transaction without saying why.
    async fn why_not_opened(&mut self, failure: Failure) -> Failure {
        let Some(ask) = DB::ask_read_only(&failure) else { return failure };
        let answer = DB::send_text(self.session.connection(), ask.to_owned()).await;
        if answer.integers.first() != Some(&1) {
            return failure;
        }
        let message = format!("the server is a standby, which takes no writes: {}", failure.message());
        let read_only = Failure::new(FailureKind::ReadOnly, message).retryable(true);
        read_only.with_code(failure.code().unwrap_or_default())
    }

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

    /// Checks that a statement touched exactly one row: the end of every optimistic update.
    ///
    /// # Errors
    ///
    /// No row is a conflict: somebody changed the version since it was read, or the row is gone. The unit is run again,
    /// whatever it makes of this error. More than one row is a mistake in the statement and ends the unit for good.
    pub fn expect_one(&mut self, rows_affected: u64) -> Result<(), Error> {
        let failure = match rows_affected {
            1 => return Ok(()),
            0 => {
                Failure::new(FailureKind::StaleVersion, "one row was to be changed, none was").retryable(true)
            }
            rows => Failure::new(FailureKind::Aborted, format!("one row was to be changed, {rows} were")),
        };
        self.journal.end(failure.clone());
        Err(Error::failed(failure, None))
    }

    /// Ends the unit because something that it had claimed was taken over: the end of every update that is guarded by a
    /// fencing token and finds no row.
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
    /// Whatever the unit makes of the error: it is rolled back, it is not run again, whatever the strategy, and the caller
    /// of `run` is told of a [stale claim](crate::Error::is_stale_claim), also in place of an error of the unit's own.
    pub fn stale_claim(&mut self, message: impl Into<String>) -> Error {
        let failure = Failure::new(FailureKind::StaleClaim, message);
        self.journal.end(failure.clone());
        Error::failed(failure, None)
    }

    /// The connection underneath, for what an executor cannot do (`COPY`, say). What runs on it is not seen by the
    /// transaction.
    ///
    /// - A conflict there is retried only if its error is turned into an [`Error`](crate::Error) on its way out of the
    ///   unit (by `?`, or in the `From` of an error type of your own); another one comes back as the unit's own error.
    /// - The server is asked whether the transaction is still open, before its commit and before a rollback. Where
    ///   something has ended it, the run ends with [`Aborted`](crate::ErrorKind::Aborted) and is not retried.
    /// - Do not end the transaction on it, and run no DDL on it on MySQL and MariaDB, which commit before they do so. A
    ///   transaction that is ended there and begun anew is not noticed on PostgreSQL and SQLite; one that is ended there,
    ///   right before a deadlock there, or inside of a savepoint, is not noticed on MySQL and MariaDB.
    /// - On MySQL and MariaDB, a savepoint that is set on it is gone with the next statement that does not run on it.
    /// - Await every future that you start on it.
    ///
    /// # Errors
    ///
    /// The root cause, once the transaction is over.
    pub fn connection(&mut self) -> Result<&mut DB::Connection, Error> {
        if let Some(failure) = self.journal.over() {
            return Err(Error::failed(failure.clone(), None));
        }
        self.journal.mark_unwatched();
        self.journal.distrusts_guard = self.depth == 0 && !self.journal.has_savepoints;
        Ok(self.session.connection())
    }

    /// Whether this failure may hide that a part of the unit is stored, so that the unit must not be run again.
    pub(crate) fn may_be_stored_in_part(&self, failure: &Failure) -> bool {
        self.journal.may_be_stored_in_part::<DB>(failure)
    }

    /// Whether statements ran, or may have run, that were not seen.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.journal.is_unwatched()
    }

    /// Ends the transaction early.
    pub(crate) fn end(&mut self, failure: Failure) {
        self.journal.end(failure);
    }

    /// What ended the transaction early, if anything did.
    pub(crate) fn over(&mut self) -> Option<&Failure> {
        self.journal.over()
    }

    fn closing(&self) -> Closing {
        Closing { unwatched: self.journal.is_unwatched(), ..self.closing.clone() }
    }

    /// The unique violation that the last statement met, if that is what it met.
    pub(crate) fn unique_violation(&self) -> Option<&Failure> {
        self.journal.unique_violation()
    }

    /// Whether a statement of the unit is on its way.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.journal.is_in_flight()
    }

    /// Those who watch the unit, if anybody does.
    pub(crate) fn observation(&self) -> Option<&Arc<Observation>> {
        self.journal.observation()
    }

    /// How long each statement may wait for a lock, as the opening has told the server.
    #[cfg(all(feature = "mysql", feature = "idempotency"))]
    pub(crate) fn lock_wait(&self) -> Option<Duration> {
        self.closing.limits.on_locks()
    }

    /// Which product it runs on.
    pub(crate) fn engine(&self) -> crate::backend::Engine {
        self.closing.engine
    }

    /// What the opening answered.
    pub(crate) fn answered(&self) -> &[i64] {
        &self.closing.saved
    }

    pub(crate) fn take_hooks(&mut self) -> Hooks {
        std::mem::take(&mut self.hooks)
    }
}

impl NotOpened {
    const fn because(failure: Failure) -> Self {
        Self { failure, stale_connection: false }
    }

    /// A question of the crate's own was not answered, before anything was opened.
    fn on_connection<DB: Backend>(error: &sqlx::Error) -> Self {
        let failure = failure_or_other::<DB>(error);
        let stale_connection = failure.kind() == FailureKind::ConnectionLost;
        Self { failure, stale_connection }
    }
}

/// The round trip that opens a transaction.
struct Begin<'a, DB: Backend> {
    session: &'a mut Session<DB>,
    by: Option<&'a Interception>,
}

impl<DB: Backend> Begin<'_, DB> {
    /// Sends the opening; a second time, where the pool's last user had left a transaction open, which nothing can commit
    /// any more.
    async fn send(self, opening: String, closing: &Closing) -> Reply {
        let connection = self.session.connection();
        let reply = send::<DB>(self.by, connection, StepKind::Begin, opening.clone()).await;
        let refused = reply.error.as_ref().map(failure_or_other::<DB>);
        if !refused.is_some_and(|failure| DB::found_open_transaction(&failure)) {
            return reply;
        }
        let rolled_back = DB::send_text(connection, DB::rollback(closing).into_owned()).await;
        if rolled_back.error.is_some() {
            return reply;
        }
        send::<DB>(self.by, connection, StepKind::Begin, opening).await
    }
}

/// While nothing is connected yet, nothing was run: any I/O error is worth another attempt.
pub(crate) fn not_connected<DB: Backend>(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Io(error) => Failure::new(FailureKind::Unavailable, error.to_string()).retryable(true),
        error => failure_or_other::<DB>(error),
    }
}

impl<DB: Backend> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("database", &DB::NAME)
            .field("attempt", &self.attempt)
            .field("plan", &self.closing.plan)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}
