//! What is told to those who watch: logs, metrics, alarms.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::failure::Failure;

mod summary;

pub use summary::{RunOutcome, Summary, Times};

/// Is told what units of work, jobs and idempotency keys go through, as it happens.
///
/// Given to a transactor with [`PoolTransactor::observed_by`](crate::PoolTransactor::observed_by), or to a
/// single run with [`Options::observed_by`](crate::Options::observed_by). Any closure over `&Event` is one.
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
/// It is called on the task that runs the unit, in the order in which things happen to that unit, and must
/// not block: the transaction is open meanwhile. What takes longer belongs into a channel.
///
/// # Values
///
/// No event holds a value of the program: statements have `?` in place of their literals, failures and errors
/// leave out what the server or the driver quotes (see [`Failure::message`]). Names are not values: those of
/// tables, columns, savepoints, queues and units are shown. What a handler of a job returns as its error is
/// reported as it is ([`JobEvent::Failed`]).
///
/// # Panics
///
/// A panic of an observer is contained: it changes nothing about the unit or the worker that is observed, the
/// other observers are called all the same, and this one is called again for the next event. The first panic
/// of an observer is a line in the log, at the level of errors (feature `tracing`).
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, event: &Event<'_>);

    /// Whether [deadlock reports](crate::DeadlockReport) are to name the units of *this* process on all sides
    /// of a deadlock.
    ///
    /// Servers name sessions. To know whose they are, each transaction asks the server for its session, in
    /// the round trip that opens it.
    ///
    /// # Default
    ///
    /// No: a report names the unit that was given up, and the sessions of the others.
    fn wants_sessions(&self) -> bool {
        false
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
}

/// Something that an [`Observer`] is told of.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A unit of work got on.
    Unit {
        /// Which run of which unit.
        run: &'a Run,
        /// What happened to it.
        event: UnitEvent<'a>,
    },
    /// A worker of a queue got on.
    Job {
        /// The queue.
        queue: &'a str,
        /// What happened in it.
        event: JobEvent<'a>,
    },
    /// An idempotency key was answered for.
    Key {
        /// The run that asked.
        run: &'a Run,
        /// The answer.
        outcome: KeyOutcome,
    },
}

/// A run of a unit of work, from its first attempt to its last.
///
/// Shown as its name and where it was started: `checkout (src/shop.rs:41)`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Tells runs apart, in this process.
    pub id: u64,
    /// The name that the unit was given by [`TransactorExt::named`](crate::TransactorExt::named); `unnamed`
    /// where it was given none.
    pub name: &'static str,
    /// The name of the strategy: [`Strategy::name`](crate::Strategy::name).
    pub strategy: &'static str,
    /// The database as OpenTelemetry calls it: `postgresql`, `mysql` (also for MariaDB) or `sqlite`.
    pub database: &'static str,
    /// Where in the program the run was started; `None` where
    /// [`Transactor::transact`](crate::Transactor::transact) was called by itself.
    pub location: Option<&'static Location<'static>>,
}

impl Run {
    /// What a unit is called that was given no name.
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

/// What happens to a unit of work.
///
/// Text of SQL holds no values: neither those that were bound to it nor its literals, which are shown as `?`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum UnitEvent<'a> {
    /// The run begins.
    Started,
    /// An attempt begins.
    AttemptStarted {
        /// Its number, the first being 1.
        attempt: u32,
    },
    /// The attempt has its place at the [`Gate`](crate::Gate), or there is none for it. Told again when it
    /// has its turn there, where that is waited for as well.
    WaitedAtGate {
        /// How long it was in line.
        waited: Duration,
    },
    /// The transaction is open.
    Opened {
        /// How long it took to get a connection.
        waited: Duration,
        /// How long the server took to open the transaction.
        took: Duration,
    },
    /// A statement was answered, or its future was dropped.
    StatementDone {
        /// Its text, with `?` in place of each literal.
        sql: &'a str,
        /// What it was waiting behind: how long the transaction had been idle.
        idle: Duration,
        /// How long the answer took.
        took: Duration,
        /// What the database said, if that was no success.
        failure: Option<&'a Failure>,
    },
    /// The transaction is open and has been idle for longer than
    /// [`Options::idle_warning`](crate::Options::idle_warning) allows: the unit waits for something that is
    /// not its database, or works without giving way, and others may be waiting for its locks. Told once for
    /// each pause.
    Idle {
        /// How long, up to now.
        idle: Duration,
        /// The text of the last statement.
        after: &'a str,
        /// Whether the pool has no connection to give at this moment. A unit that waits for one, because it
        /// queries the pool and not its transaction, waits for itself then.
        pool_exhausted: bool,
    },
    /// The attempt failed, and was rolled back.
    AttemptFailed {
        /// Its number.
        attempt: u32,
        /// Why. [`Failure::deadlock`] says who waited for whom, where it was a deadlock.
        failure: &'a Failure,
    },
    /// There will be another attempt, after a delay.
    BackingOff {
        /// How long.
        delay: Duration,
    },
    /// The run is over. The last that is told of it.
    Ended {
        /// How.
        summary: &'a Summary,
        /// What the caller was told, where that was no success and no error of the unit's own.
        error: Option<&'a Error>,
    },
}

/// What happens to the jobs of a queue's `Worker`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum JobEvent<'a> {
    /// Jobs were claimed.
    Claimed {
        /// How many.
        jobs: usize,
    },
    /// A handler begins with a job.
    Started {
        /// Its id.
        id: i64,
    },
    /// The handler has ended, however, and what it asks for is done: its place is free. The last that is
    /// reported of this attempt.
    Ended {
        /// Its id.
        id: i64,
    },
    /// The worker has as many handlers as its pool has connections, or more: handlers that each hold one
    /// leave none to claim jobs, extend leases and complete jobs with. Reported once, when the worker starts.
    PoolTooSmall {
        /// How many handlers.
        handlers: usize,
        /// How many connections at most.
        connections: u32,
    },
    /// A job is complete, or its handler has rescheduled it.
    Completed {
        /// Its id.
        id: i64,
    },
    /// An attempt failed, and there will be another one.
    Failed {
        /// Its id.
        id: i64,
        /// With what.
        error: &'a str,
    },
    /// The last attempt failed, or its worker died: the job is dead until it is requeued.
    Dead {
        /// Its id.
        id: i64,
        /// With what.
        error: &'a str,
    },
    /// Somebody else has the job, or may have it: its lease was lost.
    LeaseLost {
        /// Its id.
        id: i64,
    },
    /// The job was given back, untouched as far as the worker knows.
    Released {
        /// Its id.
        id: i64,
    },
    /// How much there is to do.
    Depth {
        /// How many jobs could be claimed now.
        ready: u64,
        /// For how long the oldest of them could have been, of whatever priority; zero where there is none.
        oldest: Duration,
        /// The same for each priority: high, normal, low.
        oldest_by_priority: [Duration; 3],
        /// How many are dead.
        dead: u64,
    },
    /// A worker is alive. Reported every ten seconds by the task that does its work, the first time when it
    /// starts.
    Heartbeat {
        /// Tells the workers of the queue in this process apart, from 0 on. One that is started in the place
        /// of one that has ended has its number.
        worker: u32,
    },
    /// A worker has done what it does at its end. The last that is reported of it; one that was dropped or
    /// whose task was aborted reports nothing more.
    Stopped {
        /// Which of the workers.
        worker: u32,
    },
    /// The database was in the way. What was to be done is tried again, or left to the lease.
    Trouble {
        /// What it said.
        error: &'a Error,
    },
}

/// How a request with an idempotency key was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyOutcome {
    /// It ran, and its effect is stored.
    Fresh,
    /// It had run before: the stored response was answered.
    Replayed,
    /// A twin is at work on it.
    InProgress,
    /// The key was used for another request.
    Mismatch,
}

impl KeyOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Replayed, Self::InProgress, Self::Mismatch];

    /// As a label: `fresh`, `replayed`, `in_progress` or `mismatch`.
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
