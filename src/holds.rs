//! Holds: an amount is taken from a number for some minutes, and then used or given back.
//!
//! A seat is kept while its buyer pays. The payment takes longer than a transaction may, and may never
//! complete. A hold takes the seat from the number of free seats at once, so that no other buyer can have it,
//! and records when it expires. The buyer's own transaction confirms the hold, together with the order. A
//! hold that is not confirmed in time expires by the clock of the database, and its seat is given back.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
//! use std::time::Duration;
//!
//! use atomically::holds::{HoldOutcome, Holds};
//! use atomically::{Error, Pessimistic, TransactorExt as _};
//!
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = pool.connect("sqlite::memory:").await?;
//! # sqlx::query("CREATE TABLE event (id INTEGER PRIMARY KEY, seats INTEGER)").execute(&pool).await?;
//! # sqlx::query("INSERT INTO event VALUES (1, 100)").execute(&pool).await?;
//! # sqlx::query("CREATE TABLE ticket (event INTEGER, seats INTEGER)").execute(&pool).await?;
//! let db = Pessimistic::default().on(&pool);
//! let seats = Holds::on(&pool, "event", "id", "seats").at_least(0);
//! seats.create_tables().await?;
//!
//! if let HoldOutcome::Held(hold) = seats.hold(1_i64, 2, Duration::from_secs(600)).await? {
//!     // The customer pays, which takes minutes. Then the order is stored, if the seats are still held:
//!     db.run(async |tx| {
//!         sqlx::query("INSERT INTO ticket VALUES (1, 2)").execute(&mut *tx).await?;
//!         hold.confirm_in(tx).await
//!     })
//!     .await?;
//! }
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! # Guarantees
//!
//! - At every commit, the number in a row plus its active holds is what was put into the row, minus what was
//!   confirmed.
//! - A hold ends once: it is confirmed, released, or given back because it has expired.
//! - A hold that has expired cannot be confirmed, even if its amount was not given back yet.
//!
//! The [guide](crate::guide::holds) explains payments that come too late, and when to use something else.

mod batches;
mod hold;
mod request;
mod runner;
mod settings;
mod single_statement;
mod sql;
mod sweep;
mod taking;

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, Key, Target};
use crate::batching::Batching;
use crate::error::Error;
use crate::events::Observer;
use crate::schema::{Schema, SchemaPart};
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, Transactor, TransactorExt as _};
use crate::tx::Tx;

pub use hold::{Confirmation, Hold};
use request::HoldRequest;
use runner::Runner;
use settings::HoldSettings;
use sql::{HoldId, HoldSql, MAX_HOLDS};
pub use sweep::Sweeper;
use taking::{HoldResult, micros};

/// The holds' own transactions.
type HoldTransactor<DB> = PoolTransactor<DB, Pessimistic>;

/// A request that waits.
type HoldCall<K> = crate::batching::Call<K, HoldRequest<K>, HoldResult>;

/// A key of rows from which amounts are held: an integer, text, a UUID, or any other [`Key`] that can be
/// stored as text and read from it again.
///
/// Implemented for every such type.
pub trait HoldKey<DB: Backend>: Key<DB> + Display + FromStr {}

impl<DB: Backend, K: Key<DB> + Display + FromStr> HoldKey<DB> for K {}

/// Takes amounts from a column of numbers for some minutes: seats, stock, credit.
///
/// `table`, `key` and `column` are inserted into the statements verbatim; quote them if your database
/// requires it. Keys are unique, and the column has an integer type, or another one that holds integers
/// within the range of an `i64`. Name the same column by the same three texts everywhere: holds are recorded
/// under them.
///
/// All calls run transactions of their own, except [`Hold::confirm_in`]: do not call the others inside a unit
/// of work on the same pool. On MySQL, holds need version 8.0; on MariaDB, 10.6.
///
/// # Many calls share a commit
///
/// While one batch of calls is being committed, the next one collects calls, as with
/// [`Deltas`](crate::Deltas). A batch is a transaction of six steps. On MySQL and MariaDB it takes two round
/// trips, and one more to find expired holds if a row has not enough. On PostgreSQL a single statement
/// replaces it if the rows have enough for all of their calls, with the exceptions that
/// [`Deltas`](crate::Deltas#round-trips) lists, and one more: calls for [several rows](Self::hold_all). Only
/// calls through the same `Holds`, or a clone of it, share commits.
///
/// # Default
///
/// - [`at_least`](Self::at_least): 0
/// - [options](Self::options): those of [`PoolTransactor`], with a deadline of 10 s for each call
/// - [capacity](Self::capacity): 10 000 waiting calls
pub struct Holds<DB: Backend, K> {
    batching: Batching<Runner<DB, K>, K, HoldRequest<K>, HoldResult>,
}

/// The result of a request to hold.
#[derive(Debug)]
#[must_use]
pub enum HoldOutcome<DB: Backend, K> {
    /// The amount was taken.
    Held(Hold<DB, K>),
    /// There is not enough, not even with what had expired. Nothing was taken.
    Refused {
        /// How much can be held of the row that has not enough: the first such row, in the order of the keys.
        available: i64,
    },
    /// There is no row with one of the keys. Nothing was taken.
    NotFound,
}

impl<DB: Backend, K: HoldKey<DB>> Holds<DB, K> {
    /// Creates a handle that takes from `column` in the rows of `table`, which are identified by the column
    /// `key`. This does not access the database.
    #[must_use]
    pub fn on(pool: &Pool<DB>, table: &'static str, key: &'static str, column: &'static str) -> Self {
        Self::new(Pessimistic::default().on(pool), HoldSettings::new(Target { table, key, column }))
    }

    fn new(db: HoldTransactor<DB>, settings: HoldSettings) -> Self {
        Self { batching: Batching::new(Runner::new(db, settings)) }
    }

    /// Returns a handle with changed settings and a queue of its own; other handles keep theirs.
    fn with(self, change: impl FnOnce(&mut HoldSettings)) -> Self {
        let mut settings = self.runner().settings.clone();
        change(&mut settings);
        Self::new(self.runner().db.clone(), settings)
    }

    /// Refuses holds that would leave a number below `floor`. The default is 0.
    #[must_use]
    pub fn at_least(self, floor: i64) -> Self {
        self.with(|settings| settings.floor = floor)
    }

    /// Sets options for the transactions of the holds, overriding those that were set before. The deadline
    /// applies to each call. [`Options::schema`], which sets the name of the table, also applies to
    /// [`Hold::confirm_in`].
    #[must_use]
    pub fn options(self, options: Options) -> Self {
        self.with(|settings| settings.options = options.or(&settings.options))
    }

    /// Names the transactions in logs, metrics and deadlock reports. The default is `holds`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.options(Options::new().named(name))
    }

    /// Adds an observer of the holds and of their transactions, in addition to earlier ones.
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(observer))
    }

    /// Sets the maximum number of calls that wait for a batch; 0 is treated as 1. Further calls fail at
    /// once with [`Overloaded`](crate::ErrorKind::Overloaded). The default is 10 000.
    #[must_use]
    pub fn capacity(self, calls: usize) -> Self {
        self.with(|settings| settings.limits.capacity = calls.max(1))
    }

    /// Lets batches reuse connections: [`PoolTransactor::reuse_connections`].
    #[must_use]
    pub fn reuse_connections(self) -> Self {
        Self::new(self.runner().db.clone().reuse_connections(), self.runner().settings.clone())
    }

    /// Sets whether connections cache the prepared statements on the caller's table. Use `false` behind
    /// poolers that do not support prepared statements. The default is `true`.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// Sets whether a batch may use a single statement on PostgreSQL, and the texts of BEGIN and COMMIT on
    /// MySQL and MariaDB, which then have the keys and the amounts in them: see
    /// [`Deltas::single_statement`](crate::Deltas::single_statement). The default is `true`.
    #[must_use]
    pub fn single_statement(self, single_statement: bool) -> Self {
        self.with(|settings| settings.single_statement = single_statement)
    }

    /// Creates the table of all holds if it is missing: [`Schema::create`](crate::Schema::create) for
    /// [`SchemaPart::Holds`].
    ///
    /// # Errors
    ///
    /// Those of [`Schema::create`](crate::Schema::create).
    pub async fn create_tables(&self) -> Result<(), Error> {
        self.runner().db.create_part(SchemaPart::Holds).await
    }

    /// Takes `amount` from the row with this key until it is confirmed or released, for at most `ttl`.
    ///
    /// If there is not enough, holds on this row that have expired are given back first. `ttl` is clamped to
    /// between 1 ms and a year.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput): the amount is less than 1, or the key cannot be
    ///   stored as text of at most 255 characters.
    /// - [`Overloaded`](crate::ErrorKind::Overloaded): too many calls are waiting. Nothing was taken.
    /// - [`CommitUnknown`](crate::ErrorKind::CommitUnknown): the amount may be missing, without a holder,
    ///   until it expires.
    /// - Otherwise, the error of [`Deltas::add`](crate::Deltas::add). Nothing was taken.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the amount may be missing, without a holder, until it expires.
    pub async fn hold(&self, key: K, amount: i64, ttl: Duration) -> Result<HoldOutcome<DB, K>, Error> {
        self.hold_all([(key, amount)], ttl).await
    }

    /// Takes amounts from several rows, all of them or none, as one hold.
    ///
    /// The rows are locked in the order of their keys, so that two calls do not deadlock. Amounts of the
    /// same key are added.
    ///
    /// # Errors
    ///
    /// Those of [`hold`](Self::hold). [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are no keys,
    /// or more than 256, or if the amounts of a key do not fit an `i64`.
    pub async fn hold_all(
        &self,
        amounts: impl IntoIterator<Item = (K, i64)> + Send,
        ttl: Duration,
    ) -> Result<HoldOutcome<DB, K>, Error> {
        let (first, request) = HoldRequest::checked(&self.runner().settings.name, amounts, ttl)?;
        let runner = self.runner();
        let deadline = runner.settings.options.deadline_from(Instant::now());
        let taken = self.batching.call(runner.db.pool(), (first, request), deadline).await?;
        Ok(self.outcome(taken))
    }

    /// Takes amounts in transactions of this transactor: for tests that control it.
    ///
    /// # Errors
    ///
    /// Those of [`hold`](Self::hold).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn hold_through(
        &self,
        db: &impl Transactor<DB>,
        amounts: impl IntoIterator<Item = (K, i64)> + Send,
        ttl: Duration,
    ) -> Result<HoldOutcome<DB, K>, Error> {
        let (first, request) = HoldRequest::checked(&self.runner().settings.name, amounts, ttl)?;
        let (sender, result) = tokio::sync::oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = HoldCall::new(first, request, deadline, std::sync::Arc::default(), sender);
        self.runner().run_in_transactions(db, vec![call]).await;
        let taken = result.await.map_err(|_| Error::transactor_broke_its_contract())??;
        Ok(self.outcome(taken))
    }

    /// Returns the hold with this id and token, active or confirmed, in order to confirm or release it;
    /// `None` if it was released or given back, or its record was [purged](Self::purge).
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn find(&self, id: i64, token: i64) -> Result<Option<Hold<DB, K>>, Error> {
        let (runner, id) = (self.runner(), HoldId { id, token });
        let records = runner.settings.records();
        let unit = async |tx: &mut Tx<DB>| Ok::<_, Error>(HoldSql::of::<DB>().expiry(tx, records, id).await?);
        let expires_at = runner.db.run(unit).await?;
        Ok(expires_at.map(|expires_at| Hold::new(self, id, expires_at)))
    }

    /// Deletes the records of holds on this column that were confirmed at least `age` ago. Returns the number
    /// of rows. [`Purge::confirmed_holds`](crate::Purge::confirmed_holds) does so at intervals, for all
    /// columns.
    ///
    /// A confirmation of a hold without a record fails with
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim), even if the hold was confirmed before. So `age` should
    /// be longer than requests are repeated.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn purge(&self, age: Duration) -> Result<u64, Error> {
        let settings = &self.runner().settings;
        purge(&self.runner().db, settings.schema(), Some(&settings.name), age).await
    }

    fn runner(&self) -> &Runner<DB, K> {
        self.batching.runner()
    }

    fn outcome(&self, taken: HoldResult) -> HoldOutcome<DB, K> {
        match taken {
            HoldResult::Held { id, expires_at } => HoldOutcome::Held(Hold::new(self, id, expires_at)),
            HoldResult::Refused { available } => HoldOutcome::Refused { available },
            HoldResult::NotFound => HoldOutcome::NotFound,
        }
    }
}

/// Deletes the records of holds, of this column or of all, that were confirmed at least `age` ago. Returns
/// the number of rows.
pub(crate) async fn purge<DB: Backend>(
    db: &impl Transactor<DB>,
    schema: Schema,
    target: Option<&str>,
    age: Duration,
) -> Result<u64, Error> {
    let (age, mut purged) = (micros(age), 0);
    let unit = async |tx: &mut Tx<DB>| {
        Ok::<_, Error>(HoldSql::of::<DB>().purge(tx, schema, target, age, MAX_HOLDS).await?)
    };
    loop {
        match db.run(unit).await? {
            0 => return Ok(purged),
            rows => purged += rows,
        }
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend, K> Clone for Holds<DB, K> {
    fn clone(&self) -> Self {
        Self { batching: self.batching.clone() }
    }
}

impl<DB: Backend, K> fmt::Debug for Holds<DB, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holds")
            .field("database", &DB::NAME)
            .field("settings", &self.batching.runner().settings)
            .finish_non_exhaustive()
    }
}
