//! The events that observers turn into logs, metrics and alerts.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::failure::Failure;

mod claims;
mod purged;
mod summary;

pub use claims::{HoldEvent, LeaseEvent};
pub use purged::PurgedTable;
pub use summary::{RunOutcome, Summary, Times};

/// Observes units of work, jobs, leases, holds, idempotency keys and purges as they run.
///
/// Register an observer for a transactor with
/// [`PoolTransactor::observed_by`](crate::PoolTransactor::observed_by), or for a single run with
/// [`Options::observed_by`](crate::Options::observed_by). Any closure over `&Event` is an observer, and so is
/// an `Arc` of one.
///
/// ```
/// use atomically::{Event, Pessimistic, TransactorExt as _, UnitEvent};
///
/// # fn example(pool: sqlx::PgPool) {
/// let db = Pessimistic::default().on(&pool).observed_by(|event: &Event<'_>| {
///     if let Event::Unit { run, event: UnitEvent::AttemptFailed { failure, .. } } = event {
///         println!("{run}: {failure}");
///     }
/// });
/// # }
/// ```
///
/// Observers are called on the task that runs the unit, in the order in which the events happen, while the
/// transaction is open. They must not block: send the event to a channel if handling it takes long.
///
/// # Values
///
/// Events contain no values of the program: in the text of statements `?` replaces each literal, and
/// failures and errors leave out what the server or the driver quotes (see [`Failure::message`]). Names of
/// tables, columns, savepoints, queues and units are shown. The error that a job's handler returns is
/// reported as it is ([`JobEvent::Failed`]).
///
/// # Panics
///
/// A panic in an observer does not affect the unit or the worker that is observed. The other observers are
/// still called, and this one is called again for the next event. The first panic of each observer is
/// logged at the level of errors (feature `tracing`).
pub trait Observer: Send + Sync {
    /// Receives an event. Must not block.
    fn observe(&self, event: &Event<'_>);

    /// Returns whether [deadlock reports](crate::DeadlockReport) name the units of *this* process on all
    /// sides of a deadlock.
    ///
    /// Servers report the numbers of sessions. To attribute them to units, each transaction queries the
    /// number of its session in the round trip that opens it.
    ///
    /// # Default
    ///
    /// False: a report names the unit that was rolled back, and the sessions of the others.
    fn wants_sessions(&self) -> bool {
        false
    }

    /// Identifies the observer, so that one that was added twice is called once.
    #[doc(hidden)]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).cast::<()>().addr()
    }
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn observe(&self, event: &Event<'_>) {
        (**self).observe(event);
    }

    fn wants_sessions(&self) -> bool {
        (**self).wants_sessions()
    }

    fn address(&self) -> usize {
        (**self).address()
    }
}

/// An event that an [`Observer`] receives.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A unit of work made progress.
    Unit {
        /// The run.
        run: &'a Run,
        /// The event.
        event: UnitEvent<'a>,
    },
    /// A worker of a queue made progress.
    Job {
        /// The queue.
        queue: &'a str,
        /// The event.
        event: JobEvent<'a>,
    },
    /// A [`Purge`](crate::Purge) made progress.
    Purge {
        /// The event.
        event: PurgeEvent<'a>,
    },
    /// A lease of this process was acquired, lost or released.
    Lease {
        /// The name of the lease.
        lease: &'a str,
        /// The event.
        event: LeaseEvent<'a>,
    },
    /// Amounts were taken from a column, or were given back.
    Hold {
        /// The table, its key and the column: `event.id.seats`.
        column: &'a str,
        /// The event.
        event: HoldEvent<'a>,
    },
    /// A request with an idempotency key was answered.
    Key {
        /// The run that handled the request.
        run: &'a Run,
        /// How the request was answered.
        outcome: KeyOutcome,
    },
}

/// A run of a unit of work, from its first attempt to its last.
///
/// Displayed as its name and location: `checkout (src/shop.rs:41)`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The id of the run, unique in this process.
    pub id: u64,
    /// The name of the unit, set by [`TransactorExt::named`](crate::TransactorExt::named); `unnamed` by
    /// default.
    pub name: &'static str,
    /// The name of the strategy: [`Strategy::name`](crate::Strategy::name).
    pub strategy: &'static str,
    /// The database's name in OpenTelemetry: `postgresql`, `mysql` (also for MariaDB) or `sqlite`.
    pub database: &'static str,
    /// Where in the program the run was started; `None` if
    /// [`Transactor::transact`](crate::Transactor::transact) was called directly.
    pub location: Option<&'static Location<'static>>,
}

impl Run {
    /// The name of units without a name.
    pub const UNNAMED: &'static str = "unnamed";
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.location {
            Some(location) => write!(f, " ({}:{})", location.file(), location.line()),
            None => Ok(()),
        }
    }
}

/// An event of a unit of work.
///
/// SQL texts contain no values: bound values are not part of them, and `?` replaces each literal.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum UnitEvent<'a> {
    /// The run starts.
    Started,
    /// An attempt starts.
    AttemptStarted {
        /// The number of the attempt, counted from 1.
        attempt: u32,
    },
    /// The attempt has entered its [`Gate`](crate::Gate), or has none. Reported a second time if the unit
    /// also had to wait inside until the units before it had ended.
    WaitedAtGate {
        /// How long it waited.
        waited: Duration,
    },
    /// The transaction is open.
    Opened {
        /// How long it took to acquire a connection.
        waited: Duration,
        /// How long the server took to open the transaction.
        took: Duration,
    },
    /// A statement has ended, or its future was dropped.
    StatementDone {
        /// The text of the statement, with `?` in place of each literal.
        sql: &'a str,
        /// How long the transaction had been idle before the statement.
        idle: Duration,
        /// How long the statement took.
        took: Duration,
        /// The failure of the statement, if it failed.
        failure: Option<&'a Failure>,
    },
    /// The transaction is open and has been idle for longer than
    /// [`Options::idle_warning`](crate::Options::idle_warning): the unit waits for something other than its
    /// database, or computes without yielding, while other transactions may wait for its locks. Reported
    /// once per pause.
    Idle {
        /// How long it has been idle so far.
        idle: Duration,
        /// The text of the last statement.
        after: &'a str,
        /// Whether all connections of the pool are in use. A unit that then runs a query on the pool,
        /// instead of on its transaction, waits for itself.
        pool_exhausted: bool,
    },
    /// The attempt failed and was rolled back.
    AttemptFailed {
        /// The number of the attempt.
        attempt: u32,
        /// The failure. After a deadlock, [`Failure::deadlock`] reports the transactions involved.
        failure: &'a Failure,
    },
    /// Another attempt follows after a delay.
    BackingOff {
        /// The delay.
        delay: Duration,
    },
    /// The run has ended. This is its last event.
    Ended {
        /// The result and times of the run.
        summary: &'a Summary,
        /// The error that the caller receives; `None` after a success, or if the unit returned an error of
        /// its own.
        error: Option<&'a Error>,
    },
}

/// An event of a queue's `Worker`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum JobEvent<'a> {
    /// The worker has claimed jobs.
    Claimed {
        /// The number of jobs.
        jobs: usize,
    },
    /// The handler of a job starts.
    Started {
        /// The id of the job.
        id: i64,
    },
    /// The worker is done with the attempt: its result was stored, or could not be, or the worker was
    /// dropped. This is the last event of the attempt.
    Ended {
        /// The id of the job.
        id: i64,
    },
    /// The worker runs at least as many handlers as its pool has connections: handlers that each hold one
    /// leave none to claim jobs, extend leases and complete jobs. Reported once, when the worker starts.
    PoolTooSmall {
        /// The number of handlers.
        handlers: usize,
        /// The maximum size of the pool.
        connections: u32,
    },
    /// The job is complete, or its handler has rescheduled it.
    Completed {
        /// The id of the job.
        id: i64,
    },
    /// An attempt failed, and another one follows.
    Failed {
        /// The id of the job.
        id: i64,
        /// The error.
        error: &'a str,
    },
    /// The last attempt failed, or its worker died. The job stays dead until it is requeued.
    Dead {
        /// The id of the job.
        id: i64,
        /// The error.
        error: &'a str,
    },
    /// The job's lease was lost: another worker has claimed the job, or may have.
    LeaseLost {
        /// The id of the job.
        id: i64,
    },
    /// The worker released the job without a result.
    Released {
        /// The id of the job.
        id: i64,
    },
    /// The number of jobs in the queue.
    Depth {
        /// The number of jobs that can be claimed now.
        ready: u64,
        /// Age of the oldest claimable job of any priority; zero if there is none.
        oldest: Duration,
        /// Age of the oldest claimable job of each priority: high, normal, low.
        oldest_by_priority: [Duration; 3],
        /// The number of dead jobs.
        dead: u64,
    },
    /// The worker is alive. Reported when it starts, and then every ten seconds by the task that claims
    /// jobs.
    Heartbeat {
        /// The number of the worker among those of the queue in this process, counted from 0. A worker that
        /// replaces one which has ended has the same number.
        worker: u32,
    },
    /// The worker has shut down. This is its last event; a worker that is dropped or whose task is aborted
    /// does not report it.
    Stopped {
        /// The number of the worker.
        worker: u32,
    },
    /// A database error interrupted the worker; it retries, or lets the lease expire.
    Trouble {
        /// The error.
        error: &'a Error,
    },
}

/// An event of a [`Purge`](crate::Purge).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum PurgeEvent<'a> {
    /// All rows that had expired are deleted.
    Deleted {
        /// The table.
        table: PurgedTable,
        /// The number of rows.
        rows: u64,
    },
    /// An error ended the purge of a table. What was deleted until then stays deleted.
    Failed {
        /// The table.
        table: PurgedTable,
        /// The error.
        error: &'a Error,
    },
}

/// How a request with an idempotency key was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyOutcome {
    /// The unit of work ran, and its effect is stored.
    Fresh,
    /// The unit had been committed before, and the stored response was returned.
    Replayed,
    /// The same request is running already.
    InProgress,
    /// The key was used for a different request.
    Mismatch,
}

impl KeyOutcome {
    /// All outcomes, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Replayed, Self::InProgress, Self::Mismatch];

    /// Returns the outcome as a label: `fresh`, `replayed`, `in_progress` or `mismatch`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Replayed => "replayed",
            Self::InProgress => "in_progress",
            Self::Mismatch => "mismatch",
        }
    }
}
