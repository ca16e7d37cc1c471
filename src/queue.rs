//! Fenced background jobs, and the outbox.
//!
//! A job is enqueued *in the caller's transaction*, so that it is there if, and only if, the rest is. A
//! worker claims it, works on it without a transaction, and completes it in the transaction that has its
//! effects. A worker that was taken for dead, and comes back, is [fenced off](Claim): its transaction rolls
//! back with all that is in it. So the effect of each job is stored exactly once, whichever processes are
//! killed whenever.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
//! use atomically::queue::{NewJob, Queue};
//! use atomically::{Error, Pessimistic, TransactorExt as _};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, paid INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! let payments = Queue::new("payments", &pool)?;
//! payments.create_tables().await?;
//!
//! // The order and its job: both or neither.
//! db.run(async |tx| {
//!     sqlx::query("INSERT INTO orders VALUES (7, 0)").execute(&mut *tx).await?;
//!     payments.enqueue(tx, NewJob::new(&7)?).await
//! })
//! .await?;
//!
//! // In some other process:
//! for claim in payments.claim(10).await? {
//!     let order: i64 = claim.payload()?;
//!     db.run(async |tx| {
//!         sqlx::query("UPDATE orders SET paid = 1 WHERE id = $1").bind(order).execute(&mut *tx).await?;
//!         claim.complete_in(tx).await
//!     })
//!     .await?;
//! }
//! # let paid: i64 = sqlx::query_scalar("SELECT paid FROM orders").fetch_one(&pool).await?;
//! # assert_eq!(paid, 1);
//! # Ok(()) }
//! ```
//!
//! [`Worker`] is the loop around that. The [guide](crate::guide::queue) has the SQL of each database, the
//! outbox, and what to look after.
//!
//! # What it does not do
//!
//! Schedules (cron), workflows, rate limits, results, a user interface. What it has is meant to be small
//! enough to be relied on, and [`Tx`] does its work inside the handlers of other queues as well.

mod claim;
mod depth;
mod sql;
mod doctor;
mod completion;
mod job;
#[cfg(feature = "testing")]
mod lapse;
mod insertion;
mod lease;
mod log;
mod next_due;
mod priority;
mod reschedule;
mod resend;
mod search;
mod spent;
mod operators;
mod wake;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::Pool;

pub use claim::Claim;
pub use completion::{FailOutcome, Retry, complete_all_in};
pub use depth::Depth;
pub use doctor::{Finding, FindingKind};
use insertion::NewRows;
pub use job::{Enqueued, NewJob};
pub use operators::{Counts, DeadJob};
pub use priority::Priority;
pub use reschedule::Reschedule;
use search::JobSearch;
pub use sql::QueueBackend;
#[cfg(feature = "postgres")]
pub use wake::PgWake;
pub use wake::Wake;
pub use worker::{BoxError, Worker};

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, TransactorExt as _};
use crate::tx::Tx;

/// The defaults of a queue: together they outlast a weekend.
const MAX_ATTEMPTS: u32 = 25;
const BACKOFF: Backoff =
    Backoff::exponential(Duration::from_secs(2), Duration::from_secs(12 * 60 * 60)).equal_jitter();

const MAX_LEASE: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A shorter one would lapse before its claim is answered.
const MIN_LEASE: Duration = Duration::from_millis(100);

/// A queue of jobs, in two tables of the database that the jobs are about.
///
/// A plain value with a name: any number of them, in any number of processes, with the same name on the same
/// database are the same queue. Cloning is cheap.
///
/// # Default
///
/// - lease: 30 s
/// - attempts of a job: 25
/// - backoff between them: [exponential](Backoff) with [equal jitter](Backoff::equal_jitter), the first
///   ceiling 2 s, doubling up to 12 h. A job that fails at each attempt lives for at least 63 hours, about
///   four days as a rule: longer than a weekend on which a service that it needs is down
///
/// # Its own transactions
///
/// Claims, extensions and the like are short transactions of their own under [`Pessimistic`], with a deadline
/// of 10 s. Do not call them from inside of a unit on the same pool; what takes a [`Tx`] is for that.
pub struct Queue<DB: Backend> {
    name: Arc<str>,
    db: PoolTransactor<DB, Pessimistic>,
    lease: Duration,
    max_attempts: u32,
    backoff: Backoff,
    search: Arc<JobSearch>,
    persistent: Option<bool>,
    after_enqueue: Option<Arc<str>>,
}

impl<DB: QueueBackend> Queue<DB> {
    /// The queue with this name. Nothing is sent to the database.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): a name that is empty, longer than 100 bytes, or has
    /// anything but letters, digits and `_ - . : /` of ASCII in it.
    pub fn new(name: &str, pool: &Pool<DB>) -> Result<Self, Error> {
        // The name goes into statements as it is.
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(fits) {
            let message = format!(
                "the name of a queue has 1 to 100 characters of a-z A-Z 0-9 _ - . : /, and this one of {} \
                 bytes does not",
                name.len()
            );
            return Err(Error::invalid_input(message));
        }
        Ok(Self {
            name: name.into(),
            db: Pessimistic::default().on(pool).options(Options::new().named("queue")),
            lease: Duration::from_secs(30),
            max_attempts: MAX_ATTEMPTS,
            backoff: BACKOFF,
            search: Arc::default(),
            persistent: None,
            after_enqueue: None,
        })
    }

    /// How long a claim keeps a job from others, unless it is extended. Counted by the database's clock.
    ///
    /// That is also how long the job of a worker that was killed waits for the next one. A [`Worker`] extends
    /// it after a third of it. Less than 100 ms counts as that, and more than a year as a year.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(MIN_LEASE, MAX_LEASE);
        self
    }

    /// How often jobs are tried that do not [say it themselves](NewJob::max_attempts), the first time
    /// included; 0 counts as 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The delays between the attempts of a job.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Lets the queue's own transactions reuse connections:
    /// [`PoolTransactor::reuse_connections`]. By default each acquires one from the pool.
    #[must_use]
    pub fn reuse_connections(mut self) -> Self {
        self.db = self.db.reuse_connections();
        self
    }

    /// Whether connections to PostgreSQL keep the statement that enqueues prepared, as sqlx's own
    /// [`persistent`](sqlx::query::Query::persistent).
    ///
    /// By default a connection keeps it if it keeps statements of the program already: where those are safe,
    /// it is, too. A connection that keeps none may go through a [pooler](crate::guide::operating) that
    /// cannot have it. There an [`enqueue`](Self::enqueue) takes a round trip more, and an
    /// [`enqueue_alone`](Self::enqueue_alone) a transaction. Say `true` where the pool goes straight to the
    /// server and the program prepares nothing itself.
    #[must_use]
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = Some(persistent);
        self
    }

    /// The name of the queue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The statements that make the tables and indexes of all queues where they are missing, for migrations
    /// of your own.
    #[must_use]
    pub fn schema() -> &'static str {
        DB::SCHEMA
    }

    /// Makes the tables and indexes of all queues where they are missing.
    ///
    /// Looks in the catalog first: where all of them are there, nothing is locked, so it may be called at
    /// each start. An index that is missing on a table in use is made under a lock. On servers that lock is
    /// waited for no longer than a second at a time, since all others wait behind it, and for some eight
    /// seconds in all. For a large table, create the index by a migration of your own, on PostgreSQL
    /// `CONCURRENTLY`.
    ///
    /// # Errors
    ///
    /// The database's; a [`LockTimeout`](crate::ErrorKind::LockTimeout) where another transaction keeps a
    /// table or an index from being made.
    pub async fn create_tables(&self) -> Result<(), Error> {
        self.db.create_schema(DB::SCHEMA).await
    }

    /// Puts a job into the queue when, and if, the transaction commits; not if another job has its
    /// [unique key](NewJob::unique).
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn enqueue(&self, tx: &mut Tx<DB>, job: NewJob) -> Result<Enqueued, Error> {
        let (_, id) = self.insert(tx, &[&job]).await?;
        Ok(id.map_or(Enqueued::Duplicate, Enqueued::Added))
    }

    /// Puts many jobs into the queue, and answers how many of them were no duplicates.
    ///
    /// They are sent in statements of at most a thousand jobs, and about a megabyte where that is several.
    ///
    /// Jobs with [unique keys](NewJob::unique) are inserted after those without, in the order of their keys,
    /// so that two calls that bring the same keys in different orders do not deadlock; of several with the
    /// same key the first one is taken. A transaction that enqueues keyed jobs by several calls should make
    /// them in that order as well.
    ///
    /// # Errors
    ///
    /// The database's. On MySQL and MariaDB, a job that is larger than `max_allowed_packet` is refused before
    /// it is sent.
    pub async fn enqueue_many(&self, tx: &mut Tx<DB>, jobs: &[NewJob]) -> Result<u64, Error> {
        let mut added = 0;
        for jobs in insertion::parts(jobs) {
            added += self.insert(tx, &jobs).await?.0;
        }
        Ok(added)
    }

    /// Puts a job into the queue that nothing else is to be stored with. On PostgreSQL, in one round trip,
    /// where the connection keeps the statement [prepared](Self::persistent).
    ///
    /// # Errors
    ///
    /// The database's. After a [commit unknown](crate::Error::is_commit_unknown) the job may be there: give
    /// it a [unique key](NewJob::unique), or see to it that twice does no harm.
    ///
    /// # Cancellation
    ///
    /// The job may or may not be there.
    pub async fn enqueue_alone(&self, job: NewJob) -> Result<Enqueued, Error> {
        let jobs = &[&job];
        let alone = DB::insert_alone(&self.db, self.rows(jobs)).filter(|_| self.after_enqueue.is_none());
        let inserted = match alone {
            Some(inserting) => inserting.await?,
            None => None,
        };
        let id = match inserted {
            Some(inserted) => inserted.id,
            None => self.db.run(async |tx| self.insert(tx, jobs).await).await?.1,
        };
        Ok(id.map_or(Enqueued::Duplicate, Enqueued::Added))
    }

    fn rows<'a>(&'a self, jobs: &'a [&'a NewJob]) -> NewRows<'a> {
        NewRows { queue: &self.name, max_attempts: self.max_attempts, persistent: self.persistent, jobs }
    }

    async fn insert(&self, tx: &mut Tx<DB>, jobs: &[&NewJob]) -> Result<(u64, Option<i64>), Error> {
        if jobs.is_empty() {
            return Ok((0, None));
        }
        let inserted = DB::insert(tx, self.rows(jobs)).await?;
        if let Some(sql) = self.after_enqueue.as_deref().filter(|_| inserted.rows > 0) {
            DB::fetch_texts(tx, sql.to_owned()).await?;
        }
        Ok((inserted.rows, inserted.id))
    }

    /// Claims up to `most` jobs that are due, in the order of their turn: by priority, then by when they were
    /// due.
    ///
    /// Due are also those whose lease has lapsed: there is no other process that has to look for them. One
    /// whose last attempt has begun and not ended is *spent*: it is marked [dead](Self::dead) on the way and
    /// does not count, so a claim returns as many jobs as there are, up to `most`. A [`Worker`] reports these
    /// deaths as [`JobEvent::Dead`](crate::JobEvent::Dead).
    ///
    /// A thousand jobs are claimed by one statement; more take several.
    ///
    /// # Errors
    ///
    /// The database's.
    ///
    /// # Cancellation
    ///
    /// Jobs may have been claimed that nobody knows of, until their lease lapses.
    pub async fn claim(&self, most: usize) -> Result<Vec<Claim<DB>>, Error> {
        Ok(search::claim(self, most).await?.claims)
    }

    /// The delay after the attempt with this number.
    fn delay_after(&self, attempt: u32) -> Duration {
        let before = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        // The ceilings have stopped growing long before.
        self.backoff.delays(StdRng::from_rng(&mut rand::rng())).nth(before.min(64)).unwrap_or_default()
    }
}

// Not derived: that would ask for `DB: Clone`.
impl<DB: Backend> Clone for Queue<DB> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            db: self.db.clone(),
            lease: self.lease,
            max_attempts: self.max_attempts,
            backoff: self.backoff,
            search: self.search.clone(),
            persistent: self.persistent,
            after_enqueue: self.after_enqueue.clone(),
        }
    }
}

impl<DB: Backend> fmt::Debug for Queue<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("database", &DB::NAME)
            .field("lease", &self.lease)
            .field("max_attempts", &self.max_attempts)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Friday evening to Monday morning, however the delays are drawn.
    #[test]
    fn a_job_outlives_a_weekend_by_default() {
        let delays = BACKOFF.ceilings().take(MAX_ATTEMPTS as usize - 1);
        let shortest: Duration = delays.map(|ceiling| ceiling / 2).sum();
        assert!(shortest >= Duration::from_secs(63 * 60 * 60), "{shortest:?}");
        let mut drawn = BACKOFF.delays(StdRng::seed_from_u64(1)).zip(BACKOFF.ceilings()).take(1_000);
        assert!(drawn.all(|(delay, ceiling)| delay >= ceiling / 2 && delay <= ceiling));
    }
}
