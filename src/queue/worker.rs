//! The loop around claims.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::depth::Depth;
use super::log;
use super::search;
use super::{Claim, Queue, QueueBackend, Wake};
use crate::backend::Backend;
use crate::events::{Event, JobEvent, Observer};
use crate::telemetry::Observers;

mod alive;
mod supervisor;
mod connections;
mod shutdown;
mod waiting;

use alive::Number;
use supervisor::Care;

/// What a handler fails with: whatever `?` turns into one, which is nearly every error there is.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The shortest time between two questions for the depth.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest time between two polls.
const MIN_POLL: Duration = Duration::from_millis(10);

/// Claims jobs and runs a handler for each of them, several at a time, until it is told to stop.
///
/// ```
/// # use atomically::queue::{Claim, Queue, Worker};
/// # use atomically::{Error, Pessimistic, TransactorExt as _};
/// # use std::sync::Arc;
/// # async fn charge(card: &str, idempotency_key: i64) -> Result<i64, std::io::Error> { Ok(1) }
/// # async fn example(pool: sqlx::SqlitePool, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
/// let queue = Queue::new("payments", &pool)?;
/// let db = Pessimistic::default().on(&pool);
/// let worker = Worker::new(&queue).handlers(8);
/// worker
///     .run(shutdown, move |claim: Arc<Claim<_>>| {
///         let db = db.clone();
///         async move {
///             let card: String = claim.payload()?;
///             // No transaction is open while others are asked.
///             let receipt = charge(&card, claim.id()).await?;
///             // Then the effects and the end of the job, at once.
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
/// - poll: every second, and at once while there is more to do
/// - grace: 20 s, and so at most 25 s from the signal to the end: containers are commonly killed after 30 s
/// - [time limit of a handler](Self::job_timeout): none
/// - depth: told every 15 s to those who watch
///
/// # What becomes of the job
///
/// | the handler | the job |
/// |---|---|
/// | returns `Ok` | is complete: by the handler, in a transaction of its own making; or else by the worker, now |
/// | returns an error, or panics, also before it has returned its future | has [failed](Claim::fail), with the queue's backoff; or is as the handler left it |
/// | runs for longer than the [time limit](Self::job_timeout) | has failed: the handler is cancelled |
/// | loses its lease | somebody else's: the handler is cancelled |
/// | is cut off at the end of the grace | given back, and the attempt does not count |
///
/// A handler that has finished is not run again because a connection broke: what the worker sends for its job
/// is sent again until the lease ends.
///
/// An unknown commit needs nothing special. A handler hands it on as an error; if the commit was stored, the
/// job is gone and cannot fail, and while its lease lasts the worker reports it as completed.
///
/// # What is logged
///
/// With the feature `tracing`, each job that dies is an error with its queue, id, attempts and last error,
/// and so are missing tables. Whatever else is in the way of the worker is a warning, once in five minutes at
/// most.
pub struct Worker<DB: Backend> {
    queue: Queue<DB>,
    handlers: usize,
    poll: Duration,
    grace: Duration,
    limit: Option<Duration>,
    wake: Option<Arc<dyn Wake>>,
    depth: Duration,
    watchers: Watchers,
}

/// Those who watch a worker, and what they are told it of.
#[derive(Clone)]
struct Watchers {
    queue: Arc<str>,
    observers: Observers,
    troubles: Arc<log::Troubles>,
}

impl Watchers {
    fn tell(&self, event: JobEvent<'_>) {
        if let JobEvent::Trouble { error } = event {
            self.troubles.report(&self.queue, error);
        }
        self.observers.notify(&Event::Job { queue: &self.queue, event });
    }
}

impl<DB: QueueBackend> Worker<DB> {
    /// A worker for this queue.
    #[must_use]
    pub fn new(queue: &Queue<DB>) -> Self {
        Self {
            queue: queue.clone(),
            handlers: 4,
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(20),
            limit: None,
            wake: None,
            depth: Duration::from_secs(15),
            watchers: Watchers {
                queue: queue.name.clone(),
                observers: Observers::default(),
                troubles: Arc::default(),
            },
        }
    }

    /// How many handlers run at the same time; 0 counts as 1.
    ///
    /// Fewer than the pool has connections, where each of them may hold one: the worker needs one for claims
    /// and one for leases. Otherwise handlers that work keep the worker from extending their leases, and
    /// their jobs begin anew. A worker that could starve itself like that reports [`JobEvent::PoolTooSmall`]
    /// when it starts, and [`doctor`](Self::doctor) says so.
    #[must_use]
    pub fn handlers(mut self, handlers: usize) -> Self {
        self.handlers = handlers.max(1);
        self
    }

    /// How often it looks for jobs when nothing tells it that there are any. Less than 10 ms counts as that.
    ///
    /// A worker that looks more seldom than once a second also asks when the next job is due, or the next
    /// lease lapses, and looks again then. It learns of jobs that are enqueued meanwhile from its
    /// [wake](Self::wake).
    #[must_use]
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.poll = interval.max(MIN_POLL);
        self
    }

    /// How long handlers may go on after the worker was told to stop. Their leases are extended meanwhile.
    ///
    /// Then the handlers are cancelled and their jobs given back, for which there are 5 s more. The worker
    /// ends after that even if the database does not answer; what could not be sent is left to the leases. So
    /// a container needs the grace and 5 s before it is killed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The longest time that a handler may run. One that runs for longer is cancelled, and its job has
    /// failed, with the queue's backoff.
    ///
    /// # Why is there none by default?
    ///
    /// A lease that is extended says that the worker is alive, not that the handler gets on: one that hangs
    /// keeps its place for ever. But no limit suits all jobs, and one that is too short makes a long job fail
    /// at each attempt and die. Set it well above the longest time that a job may take. Without it, watch the
    /// gauge of running jobs.
    ///
    /// A handler is cancelled where it waits. One that blocks its thread does not notice: its place is free
    /// after 2 s, and what it does in the transaction that completes the job is fenced.
    #[must_use]
    pub fn job_timeout(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What tells it of new jobs before the next poll.
    #[must_use]
    pub fn wake(mut self, wake: Arc<impl Wake>) -> Self {
        self.wake = Some(wake);
        self
    }

    /// Also tells this observer what happens to the jobs: [`Event::Job`]. It must not block. If it panics,
    /// the worker goes on.
    ///
    /// The transactions in which handlers work are told of to those who watch their transactors.
    #[must_use]
    pub fn observed_by(mut self, observer: impl Observer + 'static) -> Self {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        self.watchers.observers.add(&observer);
        self
    }

    /// How often those who watch are told [how much there is to do](Queue::depth), the first time at once.
    /// Less than 100 ms counts as that. Where nobody watches, the database is not asked.
    #[must_use]
    pub fn depth_every(mut self, interval: Duration) -> Self {
        self.depth = interval.max(MIN_INTERVAL);
        self
    }

    /// Works until `shutdown` is done, and then lets the handlers finish for the time of the
    /// [grace](Self::grace).
    ///
    /// No handler begins after the signal. A claim that is on its way then is waited for within the grace,
    /// and its jobs are given back; where it is not answered in time, they wait for their leases to lapse.
    ///
    /// # Which signal?
    ///
    /// Ctrl-C is SIGINT; systemd and containers send SIGTERM. Listen for both:
    ///
    /// ```
    /// async fn told_to_stop() -> std::io::Result<()> {
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
    /// None: a database that is not there now will be there again. [`observed_by`](Self::observed_by) tells.
    ///
    /// # Panics
    ///
    /// Never. A panic of a handler is its job's failure; of a [wake](Self::wake), a poll that is waited for;
    /// of an observer, nothing. One of `shutdown` is no signal: the worker goes on, and ends when it is
    /// dropped.
    ///
    /// # Cancellation
    ///
    /// Handlers are cancelled where they are. Their jobs wait for their leases to lapse.
    pub async fn run<H, F>(&self, shutdown: impl Future + Send, handler: H)
    where
        H: Fn(Arc<Claim<DB>>) -> F + Send + Sync,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.report_small_pool();
        let number = Number::take(&self.queue.name);
        tokio::select! {
            () = self.work(self.told_to_stop(shutdown), handler) => {
                self.watchers.tell(JobEvent::Stopped { worker: number.get() });
            }
            () = self.tell_depth() => {}
            () = self.beat(number.get()) => {}
        }
    }

    async fn work<H, F>(&self, shutdown: impl Future + Send, handler: H)
    where
        H: Fn(Arc<Claim<DB>>) -> F + Send + Sync,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        let unanswered = loop {
            let free = self.handlers - running.len();
            let (mut more, mut is_idle) = (false, false);
            if free > 0 {
                let mut claim = Box::pin(search::claim(&self.queue, free));
                // A handler must not begin after the signal, so that comes first.
                let found = tokio::select! {
                    biased;
                    _ = &mut shutdown => break Some(claim),
                    found = &mut claim => found,
                };
                let has_answer = found.is_ok();
                let claims = self.report(found);
                (more, is_idle) = (claims.len() == free, has_answer && claims.is_empty());
                for claim in claims {
                    let claim = Arc::new(claim);
                    let care = Care::new(claim.clone(), self.watchers.clone(), stopped.clone(), self.limit);
                    // The handler runs here until it returns its future. A panic is its job's failure.
                    match catch_unwind(AssertUnwindSafe(|| handler(claim))) {
                        Ok(work) => running.spawn(care.take(work)),
                        Err(panic) => running.spawn(care.fail_panicked(panic)),
                    };
                }
            }
            let looks = running.len() < self.handlers && !more;
            let wait = tokio::select! {
                biased;
                _ = &mut shutdown => break None,
                wait = self.time_to_wait(is_idle) => wait,
            };
            tokio::select! {
                biased;
                _ = &mut shutdown => break None,
                Some(_) = running.join_next() => while running.try_join_next().is_some() {},
                () = self.something_to_do(wait), if looks => {}
            }
        };
        self.wind_down(unanswered, running, stop).await;
    }

    /// Never ends.
    async fn tell_depth(&self) {
        if self.watchers.observers.is_empty() {
            return pending().await;
        }
        loop {
            match self.queue.depth().await {
                Ok(Depth { ready, oldest, oldest_by_priority, dead }) => {
                    self.watchers.tell(JobEvent::Depth { ready, oldest, oldest_by_priority, dead })
                }
                Err(error) => self.watchers.tell(JobEvent::Trouble { error: &error }),
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
            .field("job_timeout", &self.limit)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_does_not_poll_without_a_pause() {
        let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:").expect("a pool");
        let worker = Worker::new(&Queue::new("jobs", &pool).expect("a name"));
        assert_eq!(worker.poll_every(Duration::ZERO).poll, MIN_POLL);
    }
}
