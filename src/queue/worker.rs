//! Workers: they claim jobs and run handlers for them.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::depth::Depth;
use super::log;
use super::{Claim, Queue, Wake};
use crate::backend::Backend;
use crate::events::{Event, JobEvent, Observer};
use crate::telemetry::Observers;

mod alive;
mod completions;
mod connections;
mod handler_slots;
mod pace;
mod shutdown;
mod supervisor;
mod waiting;
mod working;

use alive::WorkerNumber;

/// The error of a handler: `?` converts nearly every error into it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The shortest time between two reports of the depth.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest time between two polls.
const MIN_POLL: Duration = Duration::from_millis(10);

/// Claims jobs and runs a handler for each of them, several at a time, until it is shut down.
///
/// ```
/// # use atomically::queue::{Claim, Queue, Worker};
/// # use atomically::{Error, Pessimistic, TransactorExt as _};
/// # use std::sync::Arc;
/// # async fn charge(card: &str, key: i64) -> Result<i64, std::io::Error> { Ok(1) }
/// # async fn example<S>(pool: sqlx::SqlitePool, shutdown: S) -> Result<(), Error>
/// # where
/// #     S: Future<Output = ()> + Send,
/// # {
/// let queue = Queue::new("payments", &pool)?;
/// let db = Pessimistic::default().on(&pool);
/// let worker = Worker::new(&queue).handlers(8);
/// worker
///     .run(shutdown, move |claim: Arc<Claim<_>>| {
///         let db = db.clone();
///         async move {
///             let card: String = claim.payload()?;
///             // No transaction is open while the handler waits for another service.
///             let receipt = charge(&card, claim.id()).await?;
///             // The effects and the completion of the job are one transaction.
///             db.run(async |tx| {
///                 sqlx::query("INSERT INTO receipt VALUES ($1)").bind(receipt).execute(&mut *tx).await?;
///                 claim.complete_in(tx).await
///             })
///             .await?;
///             Ok(())
///         }
///     })
///     .await;
/// # Ok(()) }
/// ```
///
/// # Default
///
/// - handlers: 4
/// - poll: every second, and immediately while there are more jobs
/// - grace period: 20 s, so shutdown takes at most 25 s; containers are commonly killed after 30 s
/// - [job timeout](Self::job_timeout): none
/// - depth: reported to observers every 15 s
///
/// # What happens to the job
///
/// | the handler | the job |
/// |---|---|
/// | returns `Ok` | is completed by the worker, unless the handler has done so |
/// | returns an error, or panics | [fails](Claim::fail) with the queue's backoff |
/// | exceeds the [timeout](Self::job_timeout) | fails |
/// | loses its lease | belongs to another worker |
/// | is still running after the grace period | is released, and the attempt does not count |
///
/// In the last three cases the handler is cancelled. A job that its handler has failed, released or
/// rescheduled itself is left as it is. A handler may also panic before it returns its future.
///
/// Jobs whose handlers end at about the same time are completed in one transaction. If it fails, each of them
/// is completed on its own, so that one job cannot keep the others from being completed. A claim that is
/// stale is reported for its own job only. While handlers are fast, the next ones start before the jobs of
/// those that have ended are complete: as many jobs wait for their completion as are claimed ahead. If the
/// worker is killed, they run again. The job of a key starts after the one before it is complete.
///
/// # Claims
///
/// A worker claims as many jobs as it has free handlers. If the handlers take less than 20 ms on average and
/// more jobs are waiting, it claims ahead: as many jobs as the handlers end in 20 ms, up to 1000. A job of
/// higher priority that is enqueued meanwhile starts after those that have been claimed. Jobs for which no
/// handler becomes free within half a second are released, and keep their place in the queue. If the worker
/// is killed, jobs that it has claimed ahead wait for their leases to expire, and the attempt counts, as for
/// all jobs that it has claimed.
///
/// # Lost connections
///
/// The job of a handler that has finished is not run again because a connection was lost: the worker sends
/// the outcome again until the lease expires.
///
/// A handler can simply return the error of an unknown commit. If the commit was stored, the job is gone and
/// can no longer fail, and the worker reports it as completed while its lease lasts.
///
/// # Log
///
/// With the feature `tracing`, the death of a job is logged as an error with its queue, id, attempts and last
/// error, and so are missing tables. Other errors that interrupt the worker are logged as warnings,
/// at most once in five minutes.
pub struct Worker<DB: Backend> {
    queue: Queue<DB>,
    handlers: usize,
    poll: Duration,
    grace: Duration,
    timeout: Option<Duration>,
    wake: Option<Arc<dyn Wake>>,
    depth: Duration,
    reporter: Arc<Reporter>,
}

/// Reports the events of a worker to its observers and to the log.
#[derive(Clone)]
struct Reporter {
    queue: Arc<str>,
    observers: Observers,
    log: Arc<log::TroubleLog>,
}

impl Reporter {
    fn report(&self, event: JobEvent<'_>) {
        if let JobEvent::Trouble { error } = event {
            self.log.report(&self.queue, error);
        }
        self.observers.notify(&Event::Job { queue: &self.queue, event });
    }
}

impl<DB: Backend> Worker<DB> {
    /// Creates a worker for this queue.
    #[must_use]
    pub fn new(queue: &Queue<DB>) -> Self {
        Self {
            queue: queue.clone(),
            handlers: 4,
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(20),
            timeout: None,
            wake: None,
            depth: Duration::from_secs(15),
            reporter: Arc::new(Reporter {
                queue: queue.name.clone(),
                observers: Observers::default(),
                log: Arc::default(),
            }),
        }
    }

    /// Sets how many handlers run at the same time. The default is 4; 0 counts as 1.
    ///
    /// If each handler may hold a connection, the pool needs two more than there are handlers: one for claims
    /// and one for leases. Otherwise the handlers keep the worker from extending their leases, and their jobs
    /// start again. A worker whose pool is too small reports [`JobEvent::PoolTooSmall`] when it starts, and
    /// [`doctor`](Self::doctor) finds it too.
    #[must_use]
    pub fn handlers(mut self, handlers: usize) -> Self {
        self.handlers = handlers.max(1);
        self
    }

    /// Sets how often the worker looks for jobs when nothing wakes it. The default is 1 s; less than 10 ms
    /// counts as 10 ms.
    ///
    /// A worker that polls less often than once a second also queries when the next job is due or the next
    /// lease expires, and polls then. A job that is enqueued in between is found by the [wake](Self::wake),
    /// or else at the next poll.
    #[must_use]
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.poll = interval.max(MIN_POLL);
        self
    }

    /// Sets the grace period: how long handlers may continue after the shutdown signal. The default is 20 s.
    /// Their leases are extended meanwhile.
    ///
    /// After the grace period, handlers are cancelled and their jobs released, for which there are 5 s more.
    /// Then the worker ends even if the database does not respond; jobs that could not be released wait for
    /// their leases to expire. So a container needs the grace period and 5 s before it is killed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the maximum time that a handler may run. A handler that exceeds it is cancelled, and its job
    /// fails with the queue's backoff.
    ///
    /// # Why is there no default?
    ///
    /// An extended lease shows that the worker is alive, not that the handler makes progress: a handler that
    /// hangs occupies its slot forever. But no timeout suits all jobs, and one that is too short makes a long
    /// job fail at each attempt until it is dead. Set it well above the longest time that a job may take.
    /// Without a timeout, monitor the number of running jobs.
    ///
    /// A handler is cancelled at an `.await`. A handler that blocks its thread is not: its slot is free after
    /// 2 s, and the transaction in which it would complete the job is fenced off.
    #[must_use]
    pub fn job_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets a `Wake` that wakes the worker before its next poll when there are new jobs. There is none by
    /// default.
    #[must_use]
    pub fn wake(mut self, wake: Arc<impl Wake>) -> Self {
        self.wake = Some(wake);
        self
    }

    /// Adds an observer of the worker's jobs: it receives [`Event::Job`]. It must not block. If it panics,
    /// the worker continues.
    ///
    /// The transactions of the handlers are reported to the observers of their own transactors.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        Arc::make_mut(&mut self.reporter).observers.add(Arc::new(observer));
        self
    }

    /// Sets how often observers receive the [depth](Queue::depth) of the queue; the first time is at the
    /// start. The default is 15 s; less than 100 ms counts as 100 ms. Without observers, the database is not
    /// queried.
    #[must_use]
    pub fn depth_every(mut self, interval: Duration) -> Self {
        self.depth = interval.max(MIN_INTERVAL);
        self
    }

    /// Runs the worker until `shutdown` resolves, and then lets the handlers finish within the
    /// [grace period](Self::grace).
    ///
    /// No handler starts after the signal. A claim that is in flight is awaited within the grace period, and
    /// its jobs are released; if it does not return in time, they wait for their leases to expire.
    ///
    /// # Which signal?
    ///
    /// Ctrl-C sends SIGINT; systemd and container runtimes send SIGTERM. Listen for both:
    ///
    /// ```
    /// async fn shutdown_signal() -> std::io::Result<()> {
    ///     # #[cfg(unix)] {
    ///     use tokio::signal::unix::{SignalKind, signal};
    ///
    ///     let mut terminate = signal(SignalKind::terminate())?;
    ///     tokio::select! {
    ///         interrupted = tokio::signal::ctrl_c() => interrupted?,
    ///         _ = terminate.recv() => {}
    ///     }
    ///     # }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// None: the worker retries until the database is available again. [Observers](Self::observed_by) receive
    /// the errors.
    ///
    /// # Panics
    ///
    /// Never. If a handler panics, its job fails. If a [wake](Self::wake) panics, the worker waits for the
    /// next poll. A panic of an observer has no effect. A panic of `shutdown` is not a signal: the worker
    /// continues, and ends when it is dropped.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the handlers are cancelled, and their jobs wait for their leases to expire.
    pub async fn run<H, F>(&self, shutdown: impl Future + Send, handler: H)
    where
        H: Fn(Arc<Claim<DB>>) -> F + Send + Sync,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.report_small_pool();
        let number = WorkerNumber::acquire(&self.queue.name);
        tokio::select! {
            () = self.work(self.shutdown_signal(shutdown), handler) => {
                self.reporter.report(JobEvent::Stopped { worker: number.get() });
            }
            () = self.report_depth() => {}
            () = self.report_heartbeats(number.get()) => {}
        }
    }

    /// Reports the depth of the queue at intervals. Never returns.
    async fn report_depth(&self) {
        if self.reporter.observers.is_empty() {
            return pending().await;
        }
        loop {
            match self.queue.depth().await {
                Ok(Depth { ready, oldest, oldest_by_priority, dead }) => {
                    self.reporter.report(JobEvent::Depth { ready, oldest, oldest_by_priority, dead })
                }
                Err(error) => self.reporter.report(JobEvent::Trouble { error: &error }),
            }
            sleep(self.depth).await;
        }
    }
}

impl<DB: Backend> fmt::Debug for Worker<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.queue)
            .field("handlers", &self.handlers)
            .field("poll", &self.poll)
            .field("grace", &self.grace)
            .field("job_timeout", &self.timeout)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_poll_interval_has_a_minimum() {
        let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:").expect("a pool");
        let worker = Worker::new(&Queue::new("jobs", &pool).expect("a name"));
        assert_eq!(worker.poll_every(Duration::ZERO).poll, MIN_POLL);
    }
}
