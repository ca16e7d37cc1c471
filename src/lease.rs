//! Leases: one process at a time does something that takes longer than a transaction.
//!
//! A transaction protects what fits into milliseconds. A nightly report, a migration or the leader of a
//! cluster needs to be the only one for minutes. A [`Lease`] is a name that at most one [`Held`] has at a
//! time, by the clock of the database. It is renewed in the background, and expires if its holder dies.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
//! use std::time::Duration;
//!
//! use atomically::lease::Lease;
//! use atomically::{Error, Pessimistic, TransactorExt as _};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = pool.connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE report (day INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! let lease = Lease::new("nightly-report", &pool).ttl(Duration::from_secs(30));
//! lease.create_tables().await?;
//!
//! if let Some(held) = lease.try_acquire().await? {
//!     // Minutes of work, and then its result, which is stored only if the lease is still held:
//!     db.run(async |tx| {
//!         sqlx::query("INSERT INTO report VALUES (20260704)").execute(&mut *tx).await?;
//!         held.check_in(tx).await
//!     })
//!     .await?;
//!     held.release().await?;
//! }
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! # Why check in?
//!
//! A lease alone is not a lock. Its holder can be suspended for longer than the lease lasts: by the operating
//! system, by a debugger, by a virtual machine that moves. When it continues, another process has the lease,
//! and the first one does not know it yet. No clock can prevent that, because the process can be suspended
//! between looking at the clock and writing. So what a holder writes has to be checked *where it is stored*:
//! [`Held::check_in`] makes the commit of a transaction depend on still having the lease. To a service
//! outside of this database, pass the [token](Held::token), which grows with each holder, and let the service
//! refuse a smaller one than it has seen.
//!
//! # Clocks
//!
//! Only the clock of the database decides when a lease expires. The holder counts from before it sent its
//! request, by a monotonic clock, and [gives up](Held::lost) when nine tenths of the time have passed, so it
//! stops before another can begin unless its clock is more than a tenth slower. After a failover to a server
//! whose clock is behind, a lease lasts that much longer.

mod held;
mod holding;
mod lead;
#[cfg(feature = "postgres")]
mod notify;
mod renewal;
mod sql;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sqlx::Pool;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::Backend;
use crate::error::{Error, ErrorKind};
use crate::events::Observer;
use crate::schema::SchemaPart;
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, Transactor, TransactorExt as _};
use crate::tx::Tx;
#[cfg(feature = "postgres")]
pub use crate::wake::PgWake;
pub use crate::wake::Wake;

pub use held::Held;
pub use lead::{LeaderFn, lead};
use sql::{LeaseSql, LeaseTerms};

const MIN_TTL: Duration = Duration::from_millis(100);
const MAX_TTL: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// The limits of the time that one of the lease's own transactions may take.
const MIN_DEADLINE: Duration = Duration::from_secs(1);
const MAX_DEADLINE: Duration = Duration::from_secs(10);

/// No pause between two attempts to acquire is shorter.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// A name that at most one holder has at a time, in any number of processes.
///
/// All values with the same name on the same database are the same lease. Cloning is cheap.
///
/// # Default
///
/// - [`ttl`](Self::ttl): 30 s
/// - [`poll_every`](Self::poll_every): 1 s
///
/// # Its own transactions
///
/// Acquiring, renewing and releasing are short transactions of their own under [`Pessimistic`]. They keep
/// nothing in the session, so they work behind a pooler in transaction mode. Do not call them inside a unit
/// of work on the same pool; [`Held::check_in`] is for that. With a pool of one connection, a lease is not
/// renewed while a unit of work uses the connection, and is lost if the unit takes longer than the lease.
pub struct Lease<DB: Backend> {
    name: Arc<str>,
    db: PoolTransactor<DB, Pessimistic>,
    ttl: Duration,
    poll: Duration,
    wake: Option<Arc<dyn Wake>>,
    /// Runs in each transaction that releases the lease.
    after_release: Option<Arc<str>>,
}

/// What an attempt to acquire a lease found.
enum Attempted<DB: Backend> {
    Acquired(Held<DB>),
    /// Another holder has it, for this long unless it renews.
    HeldElsewhere(Duration),
}

impl<DB: Backend> Lease<DB> {
    /// Returns the lease with this name. This does not access the database.
    ///
    /// A name has 1 to 100 ASCII letters, digits and `_ - . : /`. Acquiring a lease with an invalid name
    /// fails with [`InvalidInput`](ErrorKind::InvalidInput).
    #[must_use]
    pub fn new(name: &str, pool: &Pool<DB>) -> Self {
        Self {
            name: name.into(),
            db: Pessimistic::default().on(pool).options(Options::new().named("lease")),
            ttl: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            wake: None,
            after_release: None,
        }
    }

    /// Sets how long the lease lasts unless it is renewed. The default is 30 s.
    ///
    /// This is how long others wait after a holder was killed. A holder renews after a third of it. The value
    /// is clamped to between 100 ms and a year.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.clamp(MIN_TTL, MAX_TTL);
        self
    }

    /// Sets how often a waiting [`acquire`](Self::acquire) checks whether the lease is free. The default is
    /// 1 s. Each pause is random, between half of this interval and all of it, and shorter if the lease is
    /// about to expire.
    #[must_use]
    pub fn poll_every(mut self, interval: Duration) -> Self {
        self.poll = interval.max(MIN_PAUSE);
        self
    }

    /// Sets a [`Wake`] that ends a pause of a waiting [`acquire`](Self::acquire) when the lease may be free.
    #[must_use]
    pub fn wake(mut self, wake: Arc<impl Wake>) -> Self {
        self.wake = Some(wake);
        self
    }

    /// Sets options for the lease's own transactions, overriding those that were set before.
    /// [`Options::schema`], which sets the names of the tables, also applies to [`Held::check_in`].
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.db = self.db.options(options);
        self
    }

    /// Names the lease's own transactions in logs, metrics and deadlock reports. The default is `lease`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.options(Options::new().named(name))
    }

    /// Adds an observer of the lease's own transactions.
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(observer))
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the tables of all leases if they are missing: [`Schema::create`](crate::Schema::create) for
    /// [`SchemaPart::Leases`].
    ///
    /// # Errors
    ///
    /// Those of [`Schema::create`](crate::Schema::create).
    pub async fn create_tables(&self) -> Result<(), Error> {
        self.db.create_part(SchemaPart::Leases).await
    }

    /// Acquires the lease if it is free. Returns `None` if another holder has it.
    ///
    /// # Errors
    ///
    /// Returns the database's error. After a [commit unknown](Error::is_commit_unknown) the lease may be
    /// taken until it expires, without a holder.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime, which renews the lease.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the lease may be taken until it expires, without a holder.
    pub async fn try_acquire(&self) -> Result<Option<Held<DB>>, Error> {
        Ok(match self.attempt().await? {
            Attempted::Acquired(held) => Some(held),
            Attempted::HeldElsewhere(_) => None,
        })
    }

    /// Acquires the lease, waiting for at most `limit` until it is free. Returns `None` if another holder
    /// still has it then.
    ///
    /// # Errors
    ///
    /// Returns the database's error. While time is left, a failure that may pass, such as a lost connection,
    /// is followed by another attempt.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime, which renews the lease.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the lease may be taken until it expires, without a holder.
    pub async fn acquire(&self, limit: Duration) -> Result<Option<Held<DB>>, Error> {
        let begun = Instant::now();
        loop {
            let attempted = self.attempt().await;
            let left = limit.saturating_sub(begun.elapsed());
            let pause = match attempted {
                Ok(Attempted::Acquired(held)) => return Ok(Some(held)),
                Ok(Attempted::HeldElsewhere(_)) if left.is_zero() => return Ok(None),
                Err(error) if left.is_zero() || !may_pass(&error) => return Err(error),
                Ok(Attempted::HeldElsewhere(remaining)) => self.pause(remaining),
                Err(_) => self.pause(self.poll),
            };
            self.wait(pause.min(left)).await;
        }
    }

    /// Acquires the lease if it is free, in a transaction of this transactor: for tests that control it.
    ///
    /// # Errors
    ///
    /// Those of [`try_acquire`](Self::try_acquire).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn try_acquire_through(&self, db: &impl Transactor<DB>) -> Result<Option<Held<DB>>, Error> {
        Ok(match self.attempt_through(db).await? {
            Attempted::Acquired(held) => Some(held),
            Attempted::HeldElsewhere(_) => None,
        })
    }

    async fn attempt(&self) -> Result<Attempted<DB>, Error> {
        self.attempt_through(&self.db.with(self.limits())).await
    }

    async fn attempt_through(&self, db: &impl Transactor<DB>) -> Result<Attempted<DB>, Error> {
        self.check_name()?;
        let (terms, sql) = (self.terms(), LeaseSql::of::<DB>());
        let requested = Instant::now();
        let take = async |tx: &mut Tx<DB>| {
            let row = sql.read(tx, terms).await?;
            match row.remaining() {
                Duration::ZERO => Ok::<_, Error>((sql.take(tx, terms, row).await?, MIN_PAUSE)),
                remaining => Ok((None, remaining)),
            }
        };
        match db.run(take).await {
            Ok((Some(token), _)) => Ok(Attempted::Acquired(Held::new(self, token, requested))),
            Ok((None, remaining)) => Ok(Attempted::HeldElsewhere(remaining)),
            // The last holder has checked in with a transaction that is still open.
            Err(error) if error.is_lock_timeout() => Ok(Attempted::HeldElsewhere(self.poll)),
            Err(error) => Err(error),
        }
    }

    /// The name is written into the text of statements.
    fn check_name(&self) -> Result<(), Error> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(is_allowed) {
            let message = format!(
                "invalid lease name of {} bytes: a name has 1 to 100 characters of a-z A-Z 0-9 _ - . : /",
                self.name.len()
            );
            return Err(Error::invalid_input(message));
        }
        Ok(())
    }

    fn terms(&self) -> LeaseTerms<'_> {
        LeaseTerms { name: &self.name, ttl: self.ttl, schema: self.db.schema() }
    }

    /// A response that comes after a third of the lease's time is of little use, but a busy server needs some
    /// time.
    fn limits(&self) -> Options {
        Options::new().deadline((self.ttl / 3).clamp(MIN_DEADLINE, MAX_DEADLINE))
    }

    /// Waits for this long, or until it is woken.
    async fn wait(&self, pause: Duration) {
        match &self.wake {
            // Whether it was woken makes no difference.
            Some(wake) => _ = timeout(pause, wake.woken()).await,
            None => sleep(pause).await,
        }
    }

    /// Returns how long to wait for a lease that is held for `remaining` unless its holder renews or releases
    /// it. It is random, so that waiting callers do not all ask at once.
    fn pause(&self, remaining: Duration) -> Duration {
        let longest = self.poll.min(remaining);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0)).max(MIN_PAUSE)
    }
}

/// Whether a later attempt may succeed.
fn may_pass(error: &Error) -> bool {
    use ErrorKind::{
        BudgetSpent, CommitUnknown, Conflict, ConnectionLost, DeadlineExceeded, Exhausted, LockNotAvailable,
        LockTimeout, Overloaded, ReadOnly, StatementTimeout, Unavailable,
    };
    matches!(
        error.kind(),
        BudgetSpent
            | CommitUnknown
            | Conflict
            | ConnectionLost
            | DeadlineExceeded
            | Exhausted
            | LockNotAvailable
            | LockTimeout
            | Overloaded
            | ReadOnly
            | StatementTimeout
            | Unavailable
    )
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend> Clone for Lease<DB> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            db: self.db.clone(),
            ttl: self.ttl,
            poll: self.poll,
            wake: self.wake.clone(),
            after_release: self.after_release.clone(),
        }
    }
}

impl<DB: Backend> fmt::Debug for Lease<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("database", &DB::NAME)
            .field("ttl", &self.ttl)
            .field("poll_every", &self.poll)
            .finish_non_exhaustive()
    }
}
