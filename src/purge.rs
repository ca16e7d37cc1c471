//! Deletes what has expired.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use sqlx::Pool;
use tokio::time::{Instant, sleep_until};

use crate::backend::Backend;
use crate::error::Error;
use crate::events::{Event, Observer, PurgeEvent, PurgedTable};
#[cfg(feature = "idempotency")]
use crate::idempotency::IdempotencyExt as _;
#[cfg(feature = "queue")]
use crate::queue::Queue;
use crate::strategies::Pessimistic;
use crate::telemetry::Observers;
use crate::transactor::{Options, PoolTransactor};

/// A shorter interval would keep the database busy with searches.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Deletes what has expired from the tables that the crate keeps: once, or at intervals.
///
/// ```
/// # #[cfg(all(feature = "sqlite", feature = "idempotency", feature = "queue", feature = "holds"))]
/// # use atomically::Error;
/// # async fn example(pool: sqlx::SqlitePool, shutdown: impl Future + Send) -> Result<(), Error> {
/// use std::time::Duration;
///
/// use atomically::queue::Queue;
/// use atomically::{Metrics, Purge};
///
/// let mail = Queue::new("mail", &pool)?;
/// let purge = Purge::new(&pool)
///     .keys()
///     .operations(Duration::from_secs(60 * 60))
///     .dead_jobs(&mail, Duration::from_secs(14 * 24 * 60 * 60))
///     .confirmed_holds(Duration::from_secs(7 * 24 * 60 * 60))
///     .observed_by(Metrics::new());
/// purge.every(Duration::from_secs(60), shutdown).await;
/// # Ok(()) }
/// ```
///
/// Rows are deleted a thousand per transaction, so that no lock is held for long. Several processes may purge
/// the same tables at the same time.
///
/// Nothing is purged that was not selected. Completed jobs need no purge: their rows are deleted when they
/// complete, and so are those of holds that were released or have expired.
///
/// # Failures
///
/// If one table cannot be purged, the others still are.
pub struct Purge<DB: Backend> {
    db: PoolTransactor<DB, Pessimistic>,
    keys: bool,
    operations: Option<Duration>,
    #[cfg(feature = "queue")]
    dead_jobs: Vec<(Queue<DB>, Duration)>,
    #[cfg(feature = "holds")]
    confirmed_holds: Option<Duration>,
    observers: Observers,
}

/// How many rows a [`Purge`] has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Purged {
    /// Expired idempotency keys.
    pub keys: u64,
    /// Operations.
    pub operations: u64,
    /// Dead jobs, of all queues.
    pub jobs: u64,
    /// Expired leases of jobs that are gone.
    pub job_leases: u64,
    /// Rows of confirmed holds. A hold has one for each row from which it took an amount.
    pub holds: u64,
}

impl<DB: Backend> Purge<DB> {
    /// Creates a purge that deletes nothing yet.
    #[must_use]
    pub fn new(pool: &Pool<DB>) -> Self {
        Self {
            db: Pessimistic::default().on(pool).options(Options::new().named("purge")),
            keys: false,
            operations: None,
            #[cfg(feature = "queue")]
            dead_jobs: Vec::new(),
            #[cfg(feature = "holds")]
            confirmed_holds: None,
            observers: Observers::default(),
        }
    }

    /// Deletes idempotency keys that have expired, with their responses.
    #[cfg(feature = "idempotency")]
    #[must_use]
    pub fn keys(self) -> Self {
        Self { keys: true, ..self }
    }

    /// Deletes operations that are older than this.
    ///
    /// Choose an age above the longest deadline: an operation is needed only until its run ends.
    #[must_use]
    pub fn operations(self, older_than: Duration) -> Self {
        Self { operations: Some(older_than), ..self }
    }

    /// Deletes jobs of a queue that have been dead for this long, and leases that expired as long ago and
    /// whose jobs are gone. The table is that of the queue's own [options](Queue::options). Can be called for
    /// several queues.
    #[cfg(feature = "queue")]
    #[must_use]
    pub fn dead_jobs(mut self, queue: &Queue<DB>, dead_for: Duration) -> Self {
        self.dead_jobs.push((queue.clone(), dead_for));
        self
    }

    /// Deletes the records of holds that were confirmed this long ago, of all columns.
    ///
    /// Choose an age above the time in which a confirmation may be repeated: without its record, a second
    /// confirmation fails with [`StaleClaim`](crate::ErrorKind::StaleClaim), as if the hold had expired.
    #[cfg(feature = "holds")]
    #[must_use]
    pub fn confirmed_holds(self, confirmed_for: Duration) -> Self {
        Self { confirmed_holds: Some(confirmed_for), ..self }
    }

    /// Sets options for the transactions, such as their deadline and the
    /// [names of the tables](Options::schema), overriding those that were set before. The transactions that
    /// delete jobs run under the options of their queue.
    #[must_use]
    pub fn options(self, options: Options) -> Self {
        Self { db: self.db.options(options), ..self }
    }

    /// Adds an observer of the purge: it receives [`Event::Purge`]. The transactions themselves are reported
    /// to the observers of the [options](Self::options).
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.add(Arc::new(observer));
        self
    }

    /// Deletes everything that has expired, and returns how many rows were deleted.
    ///
    /// # Errors
    ///
    /// Returns the first error, after all other tables were purged. What was deleted stays deleted.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. The current batch may or may not be deleted.
    pub async fn once(&self) -> Result<Purged, Error> {
        let mut pass = Pass { observers: self.observers.and_log(), purged: Purged::default(), error: None };
        #[cfg(feature = "idempotency")]
        if self.keys {
            pass.note(PurgedTable::Keys, self.db.keys().purge().await);
        }
        if let Some(older_than) = self.operations {
            pass.note(PurgedTable::Operations, self.db.purge_operations(older_than).await);
        }
        #[cfg(feature = "queue")]
        for (queue, dead_for) in &self.dead_jobs {
            pass.note(PurgedTable::JobLeases, queue.purge_leases(*dead_for).await);
            pass.note(PurgedTable::Jobs, queue.purge_jobs(*dead_for).await);
        }
        #[cfg(feature = "holds")]
        if let Some(confirmed_for) = self.confirmed_holds {
            let purged = crate::holds::purge(&self.db, self.db.schema(), None, confirmed_for).await;
            pass.note(PurgedTable::Holds, purged);
        }
        pass.error.map_or(Ok(pass.purged), Err)
    }

    /// Deletes what has expired now and then at this interval, until `shutdown` resolves. Less than a second
    /// counts as a second.
    ///
    /// # Errors
    ///
    /// None: errors are logged and reported to the [observers](Self::observed_by), and the next pass tries
    /// again.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time, which is also what the signal does to a pass in progress.
    pub async fn every(&self, interval: Duration, shutdown: impl Future + Send) {
        let interval = interval.max(MIN_INTERVAL);
        let mut shutdown = pin!(shutdown);
        loop {
            let started = Instant::now();
            let pass = async {
                // The error was reported.
                let _ = self.once().await;
                if let Some(next) = started.checked_add(interval) {
                    sleep_until(next).await;
                }
            };
            if let Either::Left(_) = select(&mut shutdown, pin!(pass)).await {
                return;
            }
        }
    }
}

/// A pass over the selected tables.
struct Pass {
    observers: Observers,
    purged: Purged,
    error: Option<Error>,
}

impl Pass {
    fn note(&mut self, table: PurgedTable, result: Result<u64, Error>) {
        match result {
            Ok(rows) => {
                let Purged { keys, operations, jobs, job_leases, holds } = &mut self.purged;
                *match table {
                    PurgedTable::Keys => keys,
                    PurgedTable::Operations => operations,
                    PurgedTable::Jobs => jobs,
                    PurgedTable::JobLeases => job_leases,
                    PurgedTable::Holds => holds,
                } += rows;
                self.observers.notify(&Event::Purge { event: PurgeEvent::Deleted { table, rows } });
            }
            Err(error) => {
                let event = PurgeEvent::Failed { table, error: &error };
                self.observers.notify(&Event::Purge { event });
                self.error.get_or_insert(error);
            }
        }
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend> Clone for Purge<DB> {
    fn clone(&self) -> Self {
        Self {
            db: self.db.clone(),
            keys: self.keys,
            operations: self.operations,
            #[cfg(feature = "queue")]
            dead_jobs: self.dead_jobs.clone(),
            #[cfg(feature = "holds")]
            confirmed_holds: self.confirmed_holds,
            observers: self.observers.clone(),
        }
    }
}

impl<DB: Backend> fmt::Debug for Purge<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Purge");
        shown.field("database", &DB::NAME).field("keys", &self.keys).field("operations", &self.operations);
        #[cfg(feature = "queue")]
        shown.field("dead_jobs", &self.dead_jobs);
        #[cfg(feature = "holds")]
        shown.field("confirmed_holds", &self.confirmed_holds);
        shown.finish_non_exhaustive()
    }
}
