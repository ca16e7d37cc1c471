//! Background jobs with fencing, and the transactional outbox.
//!
//! A job is enqueued *in the caller's transaction*: it is stored if, and only if, the rest of the transaction
//! is. A worker claims the job, works on it without a transaction, and completes it in the transaction that
//! has its effects. A worker that was presumed dead and comes back is [fenced off](Claim#the-fence): its
//! transaction is rolled back. So the effects of each job are stored exactly once, whichever processes are
//! killed, and whenever.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
//! use atomically::queue::{NewJob, Queue};
//! use atomically::{Error, Pessimistic, TransactorExt as _};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = pool.connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, paid INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! let payments = Queue::new("payments", &pool)?;
//! payments.create_tables().await?;
//!
//! // The order and its job: both are stored, or neither.
//! db.run(async |tx| {
//!     sqlx::query("INSERT INTO orders VALUES (7, 0)").execute(&mut *tx).await?;
//!     payments.enqueue(tx, NewJob::new(&7)?).await
//! })
//! .await?;
//!
//! // In another process:
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
//! A [`Worker`] runs such a loop. Jobs of one key can run [in order](NewJob::in_order_of), or [at most so
//! many](NewJob::at_most) at the same time. The [guide](crate::guide::queue) covers the SQL of each database,
//! the outbox, and operations.
//!
//! # Out of scope
//!
//! Cron expressions, workflows, rate limits, results, and a user interface. The queue is small so that it can
//! be relied on. [`Tx`] also works inside the handlers of other queues. The guide has a recipe for
//! [schedules](crate::guide::queue#schedules).

mod admission;
mod claim;
mod claiming;
mod completing;
mod completion;
mod control;
mod cursor;
mod depth;
mod doctor;
mod extension;
mod finding;
mod giving_back;
mod insertion;
mod job;
mod key;
mod keyed;
#[cfg(feature = "testing")]
mod lapse;
mod listing;
mod log;
mod next_due;
#[cfg(feature = "postgres")]
mod notify;
mod operators;
mod position;
mod priority;
mod resend;
mod reschedule;
mod row;
mod settings;
mod slots;
mod spent;
mod sql;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::Pool;

pub use claim::Claim;
pub use completion::{FailOutcome, Retry, complete_all_in};
use cursor::ClaimCursor;
pub use depth::Depth;
pub use finding::{Finding, FindingKind};
use insertion::NewRows;
pub use job::{Enqueued, NewJob};
pub use listing::{Job, JobState};
pub use operators::{Counts, DeadJob};
pub use priority::Priority;
pub use reschedule::Reschedule;
use row::Inserted;
use sql::DriverCalls;
pub use worker::{BoxError, Worker};

use crate::backend::{Backend, Capability};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::schema::{Schema, SchemaPart};
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, TransactorExt as _};
use crate::tx::Tx;
#[cfg(feature = "postgres")]
pub use crate::wake::PgWake;
pub use crate::wake::Wake;

/// The default limits of a queue: together they retry a job for longer than a weekend.
const MAX_ATTEMPTS: u32 = 25;
const BACKOFF: Backoff =
    Backoff::exponential(Duration::from_secs(2), Duration::from_secs(12 * 60 * 60)).equal_jitter();

/// A named queue of jobs, stored in tables of a database.
///
/// All values with the same name on the same database are the same queue, in any number of processes. Cloning
/// is cheap.
///
/// # Default
///
/// - lease: 30 s
/// - attempts per job: 25
/// - backoff between them: [exponential](Backoff) with [equal jitter](Backoff::equal_jitter), starting at 2 s
///   and doubling up to 12 h. A job that fails at each attempt is retried for at least 63 hours, about four
///   days on average: longer than a weekend during which a service that it needs is down
///
/// # Its own transactions
///
/// Claims, extensions and similar calls are short transactions of their own under [`Pessimistic`], with a
/// deadline of 10 s. Do not call them inside a unit of work on the same pool; the methods that take a [`Tx`]
/// are for that.
pub struct Queue<DB: Backend> {
    name: Arc<str>,
    db: PoolTransactor<DB, Pessimistic>,
    lease: Duration,
    max_attempts: u32,
    backoff: Backoff,
    cursor: Arc<ClaimCursor>,
    persistent: Option<bool>,
    /// Whether the jobs of an ordered key do not wait for those that have died.
    skips_dead: bool,
    /// Runs in each transaction that enqueues a job.
    after_enqueue: Option<Arc<str>>,
}

impl<DB: Backend> Queue<DB> {
    /// Returns the queue with this name. This does not access the database.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the name is empty, is longer than 100 bytes, or has
    /// other characters than ASCII letters, digits and `_ - . : /`.
    pub fn new(name: &str, pool: &Pool<DB>) -> Result<Self, Error> {
        // The name is written into the text of statements.
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(is_allowed) {
            let message = format!(
                "invalid queue name of {} bytes: a name has 1 to 100 characters of a-z A-Z 0-9 _ - . : /",
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
            cursor: Arc::default(),
            persistent: None,
            skips_dead: false,
            after_enqueue: None,
        })
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the tables and indexes of all queues if they are missing:
    /// [`Schema::create`](crate::Schema::create) for [`SchemaPart::Queue`].
    ///
    /// # Errors
    ///
    /// Those of [`Schema::create`](crate::Schema::create).
    pub async fn create_tables(&self) -> Result<(), Error> {
        self.db.create_part(SchemaPart::Queue).await
    }

    /// Returns the names of the tables.
    fn schema(&self) -> Schema {
        self.db.schema()
    }

    /// Enqueues a job in the caller's transaction, unless the queue has a job with the same
    /// [unique key](NewJob::unique).
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn enqueue(&self, tx: &mut Tx<DB>, job: NewJob) -> Result<Enqueued, Error> {
        let inserted = self.insert_all(tx, &[vec![&job]]).await?;
        Ok(inserted.id.map_or(Enqueued::Duplicate, Enqueued::Added))
    }

    /// Enqueues several jobs in the caller's transaction, except duplicates. Returns how many it added.
    ///
    /// Each statement inserts at most a thousand jobs, and at most about a megabyte unless a single job is
    /// larger.
    ///
    /// Jobs with [unique keys](NewJob::unique) are inserted after the others and in the order of their keys,
    /// so that two calls with the same keys in different orders do not deadlock. Of several jobs with the
    /// same key the first is enqueued. If a transaction enqueues jobs with keys in several calls, make the
    /// calls in the order of the keys too.
    ///
    /// # Errors
    ///
    /// Returns the database's error. On MySQL and MariaDB, a job larger than `max_allowed_packet` is refused
    /// before it is sent.
    pub async fn enqueue_many(&self, tx: &mut Tx<DB>, jobs: &[NewJob]) -> Result<u64, Error> {
        Ok(self.insert_all(tx, &insertion::batches(jobs)).await?.rows)
    }

    /// Enqueues a job in a transaction of its own. On PostgreSQL this takes one round trip if the connection
    /// keeps the statement [prepared](Self::persistent).
    ///
    /// # Errors
    ///
    /// Returns the database's error. After a [commit unknown](crate::Error::is_commit_unknown) the job may
    /// have been enqueued: give it a [unique key](NewJob::unique), or make it harmless to run twice.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the job may or may not be enqueued.
    pub async fn enqueue_alone(&self, job: NewJob) -> Result<Enqueued, Error> {
        let jobs = &[&job];
        let insert_alone = DriverCalls::get().and_then(|calls| calls.insert_alone);
        let mut alone =
            insert_alone.filter(|_| self.after_enqueue.is_none() && !self.db.has_local_settings());
        if alone.is_some() && self.db.engine().await?.lacks(Capability::ServerLimits) {
            alone = None;
        }
        let inserted = match alone.and_then(|insert_alone| insert_alone(&self.db, self.rows(jobs))) {
            Some(inserting) => inserting.await?,
            None => None,
        };
        let inserted = match inserted {
            Some(inserted) => inserted,
            None => self.db.run(async |tx| self.insert_all(tx, &[jobs.to_vec()]).await).await?,
        };
        Ok(inserted.id.map_or(Enqueued::Duplicate, Enqueued::Added))
    }

    fn rows<'a>(&'a self, jobs: &'a [&'a NewJob]) -> NewRows<'a> {
        let (schema, max_attempts) = (self.schema(), self.max_attempts);
        NewRows { queue: &self.name, schema, max_attempts, persistent: self.persistent, jobs }
    }

    /// Inserts batches, and lets the ordered and limited jobs among them wait for a slot of their keys, which
    /// are locked. The id is that of the last batch.
    async fn insert_all(&self, tx: &mut Tx<DB>, batches: &[Vec<&NewJob>]) -> Result<Inserted, Error> {
        let jobs = batches.iter().flatten();
        let keys: Vec<_> = jobs.filter_map(|job| Some(job.key.as_ref()?.in_queue(&self.name))).collect();
        if !keys.is_empty() {
            slots::lock_or_create(tx, self.schema(), keys.iter().copied(), slots::SlotLimit::New).await?;
        }
        let mut total = Inserted { rows: 0, id: None };
        for batch in batches {
            let inserted = self.insert(tx, batch).await?;
            total = Inserted { rows: total.rows + inserted.rows, id: inserted.id };
        }
        if !keys.is_empty() {
            slots::free(tx, self.schema(), &slots::none_of(&keys)).await?;
        }
        Ok(total)
    }

    async fn insert(&self, tx: &mut Tx<DB>, jobs: &[&NewJob]) -> Result<Inserted, Error> {
        let rows = self.rows(jobs);
        let inserted = match DriverCalls::get() {
            Some(calls) => (calls.insert)(tx, rows).await?,
            None => sql::insert(tx, rows).await?,
        };
        if let Some(sql) = self.after_enqueue.as_deref().filter(|_| inserted.rows > 0) {
            tx.require(Capability::ListenNotify)?;
            sql::fetch_texts(tx, self.schema(), sql).await?;
        }
        Ok(inserted)
    }

    /// Claims up to `limit` due jobs, ordered by priority and then by due time.
    ///
    /// This includes claimed jobs whose lease has expired, so no separate process has to look for them. A job
    /// whose lease expired during its last attempt is *spent*: the claim marks it [dead](Self::dead) and does
    /// not count it. A [`Worker`] reports such deaths as [`JobEvent::Dead`](crate::JobEvent::Dead).
    ///
    /// Each statement claims at most a thousand jobs. If a later one fails, the earlier jobs are
    /// returned, and the error is logged.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, jobs may have been claimed; they are claimed again once their leases have
    /// expired.
    pub async fn claim(&self, limit: usize) -> Result<Vec<Claim<DB>>, Error> {
        claiming::claim_and_log(self, limit).await
    }

    /// Returns the delay after the attempt with this number.
    fn delay_after(&self, attempt: u32) -> Duration {
        let before = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        // The ceiling is constant long before 64 attempts.
        self.backoff.delays(StdRng::from_rng(&mut rand::rng())).nth(before.min(64)).unwrap_or_default()
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend> Clone for Queue<DB> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            db: self.db.clone(),
            lease: self.lease,
            max_attempts: self.max_attempts,
            backoff: self.backoff,
            cursor: self.cursor.clone(),
            persistent: self.persistent,
            skips_dead: self.skips_dead,
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

    /// From Friday evening to Monday morning, whatever the jitter.
    #[test]
    fn by_default_a_job_is_retried_for_longer_than_a_weekend() {
        let delays = BACKOFF.ceilings().take(MAX_ATTEMPTS as usize - 1);
        let shortest: Duration = delays.map(|ceiling| ceiling / 2).sum();
        assert!(shortest >= Duration::from_secs(63 * 60 * 60), "{shortest:?}");
        let mut jittered = BACKOFF.delays(StdRng::seed_from_u64(1)).zip(BACKOFF.ceilings()).take(1_000);
        assert!(jittered.all(|(delay, ceiling)| delay >= ceiling / 2 && delay <= ceiling));
    }
}
