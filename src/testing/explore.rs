//! Every interleaving of a few units of work, on a real database.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::Pool;

use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Options, Transactor, TransactorExt as _, With};
use crate::tx::UnitFn;

mod anomaly;
mod client_state;
mod driver;
mod gap;
mod independence;
mod lanes;
mod log;
mod oracle;
mod persistent;
mod report;
mod run;
mod schedule;
mod search;
mod serializable;
mod several;
mod stage;
mod totals;
mod view;

pub use anomaly::AnomalyName;
pub(super) use client_state::ClientResult;
pub use gap::Gap;
use oracle::OracleSettings;
pub use oracle::SerialDifference;
pub use report::{Counterexample, ExploreError, Problem, Report};
use schedule::letter;
pub use schedule::{ParseScheduleError, Schedule};

/// Starts building an exploration on `pool`: see [`Explore`].
pub fn explore<'a, DB: Backend>(pool: &Pool<DB>) -> Explore<'a, DB> {
    Explore {
        pool: pool.clone(),
        set_up: Box::new(|_| Box::pin(async { Ok(()) })),
        clients: Vec::new(),
        invariants: Vec::new(),
        oracle: OracleSettings::default(),
        max_schedules: None,
        max_preemptions: usize::MAX,
        max_steps: 1000,
        patience: Duration::from_secs(10),
        deadlocks_allowed: false,
        unseen_allowed: false,
        skips_equivalent: false,
    }
}

/// Runs units of work in every order of their statements and checks invariants after each order: a model
/// checker for transactions, on a real database.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::explore;
/// use atomically::{Error, Pessimistic, Tx};
/// use sqlx::{Sqlite, SqlitePool};
///
/// async fn take_one(tx: &mut Tx<Sqlite>) -> Result<(), Error> {
///     let read = tx.for_update("SELECT stock FROM product");
///     let stock: i64 = sqlx::query_scalar(read).fetch_one(&mut *tx).await?;
///     sqlx::query("UPDATE product SET stock = $1").bind(stock - 1).execute(&mut *tx).await?;
///     Ok(())
/// }
///
/// # let directory = tempfile::tempdir()?;
/// # let file = format!("sqlite:{}?mode=rwc", directory.path().join("shop.db").display());
/// let pool = SqlitePool::connect(&file).await?;
/// sqlx::query("CREATE TABLE product (stock INTEGER)").execute(&pool).await?;
///
/// let db = Pessimistic::default().on(&pool);
/// let report = explore(&pool)
///     .set_up(|pool| async move {
///         sqlx::raw_sql("DELETE FROM product; INSERT INTO product VALUES (10)").execute(&pool).await
///     })
///     .unit("alice", &db, take_one)
///     .unit("bob", &db, take_one)
///     .expect("stock", 8_i64, |pool| async move {
///         sqlx::query_scalar("SELECT stock FROM product").fetch_one(&pool).await
///     })
///     .run()
///     .await?;
/// report.assert_passes();
/// assert!(report.complete);
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// # How it works
///
/// A transaction of this crate sees every statement that its unit sends, so the explorer can hold each
/// statement back until its turn. One client at a time takes a step: BEGIN, a statement, a savepoint, COMMIT
/// or ROLLBACK. The explorer queries which sessions wait for a lock, and meanwhile lets the other clients go
/// on. Retries are part of the schedule and are explored as well, without their delays.
///
/// The first schedule is run twice, and each later one starts with the same steps as an earlier one. If the
/// same steps lead to a different state, the schedule has [diverged](Problem::Diverged). That is a
/// counterexample, because the schedules that continue from there cannot be explored.
///
/// Schedules with the fewest preemptions run first: those in which a client that could go on is rarely made
/// to wait. Most bugs need one or two preemptions, so the first counterexample is also the simplest.
///
/// # Defaults
///
/// - At most 1000 schedules, with any number of preemptions. If there are more,
///   [`assert_passes`](Report::assert_passes) fails, unless [`max_schedules`](Self::max_schedules) or
///   [`max_preemptions`](Self::max_preemptions) sets the limit.
/// - A deadlock is a counterexample (see [`allow_deadlocks`](Self::allow_deadlocks)), and so is a client that
///   ends with an error.
///
/// # Requirements
///
/// - The pool has a connection for each client and one more, and no other program uses the database.
/// - *PostgreSQL*: the server ends a deadlock after `deadlock_timeout`, 1 s by default. Set it to 100 ms on a
///   test server. With a shorter timeout the victim depends on which transaction started to wait first, but a
///   schedule must end the same way each time.
/// - *MySQL and MariaDB*: the privilege `PROCESS`, for `SHOW ENGINE INNODB STATUS`.
/// - *SQLite*: a file, because `:memory:` has only one connection. SQLite cannot list its waiting sessions,
///   so a statement that finds the database busy is sent again after the transaction of another client has
///   ended, as SQLite's own busy handler would do.
/// - Each client runs one unit at a time. Two concurrent units (`tokio::join!`) are
///   [an error](ExploreError::ConcurrentUnits): add a client for each.
/// - The units behave the same in each schedule. A transactor that learns, such as
///   [`Adaptive`](crate::Adaptive), carries state from one schedule to the next: explore the strategies that
///   it chooses between.
///
/// # Limits
///
/// Schedules are orders of *steps*. The [guide](crate::guide::testing) lists what that leaves out: events
/// inside a statement, outside of the `tx`, in the server's lock queue, and events caused by the passing of
/// time. Gaps that the explorer can detect are listed in [`Report::gaps`].
///
/// A unit that waits for another unit through anything but the database, such as a barrier, is
/// [stuck](Problem::Stuck).
#[must_use = "an exploration does nothing until `run` or `replay` is called"]
pub struct Explore<'a, DB: Backend> {
    pool: Pool<DB>,
    set_up: CheckFn<'a, DB, Result<(), String>>,
    clients: Vec<ClientSetup<'a>>,
    invariants: Vec<Invariant<'a, DB>>,
    oracle: OracleSettings,
    max_schedules: Option<usize>,
    max_preemptions: usize,
    max_steps: usize,
    patience: Duration,
    deadlocks_allowed: bool,
    unseen_allowed: bool,
    skips_equivalent: bool,
}

/// Starts a client with these options.
pub(super) type ClientFn<'a> = Box<dyn Fn(Options) -> BoxFuture<'a, ClientResult> + Send + Sync + 'a>;
type CheckFn<'a, DB, T> = Box<dyn Fn(Pool<DB>) -> BoxFuture<'a, T> + Send + Sync + 'a>;

struct ClientSetup<'a> {
    name: String,
    run: ClientFn<'a>,
}

struct Invariant<'a, DB: Backend> {
    name: String,
    check: CheckFn<'a, DB, Result<(), Violation>>,
}

/// The expected and the actual state of a violated invariant.
struct Violation {
    expected: String,
    found: String,
}

/// The transactor that a client of an exploration runs its units on. Each of its steps waits for its turn.
pub type Client<'a, X> = With<'a, X>;

impl<'a, DB: Backend> Explore<'a, DB> {
    /// Sets the function that runs before each schedule and resets the tables to their initial state. If it
    /// fails, it is called again, up to three times in all.
    pub fn set_up<F, Fut, T, E>(mut self, set_up: F) -> Self
    where
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
        E: Display,
    {
        self.set_up = Box::new(move |pool| {
            let done = set_up(pool);
            Box::pin(async move { done.await.map(|_| ()).map_err(|error| error.to_string()) })
        });
        self
    }

    /// Adds a client that runs one unit of work, which must succeed.
    pub fn unit<X, F, T, E>(self, name: impl Into<String>, transactor: &'a X, unit: F) -> Self
    where
        X: Transactor<DB> + ?Sized,
        F: UnitFn<DB, T, E> + 'a,
        T: Debug + Send + 'a,
        E: From<Error> + Display + Send + 'a,
    {
        self.client(name, transactor, move |client| {
            let unit = unit.clone();
            async move { client.run(unit).await }
        })
    }

    /// Adds a client that runs several units, or that handles some of their errors.
    ///
    /// ```
    /// # use atomically::testing::Explore;
    /// # use atomically::{Error, Pessimistic, TransactorExt as _, Transactor, Tx};
    /// # use std::fmt;
    /// # enum Booking { SoldOut, Other(Error) }
    /// # impl From<Error> for Booking { fn from(error: Error) -> Self { Self::Other(error) } }
    /// # impl fmt::Display for Booking {
    /// #     fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result { Ok(()) }
    /// # }
    /// # async fn book(tx: &mut Tx<sqlx::Sqlite>) -> Result<(), Booking> { Ok(()) }
    /// # type Sqlite<'a> = Explore<'a, sqlx::Sqlite>;
    /// # fn example<'a>(explore: Sqlite<'a>, db: &'a dyn Transactor<sqlx::Sqlite>) -> Sqlite<'a> {
    /// explore.client("alice", db, |db| async move {
    ///     match db.run(book).await {
    ///         Err(Booking::SoldOut) => Ok(()),
    ///         other => other,
    ///     }
    /// })
    /// # }
    /// ```
    pub fn client<X, F, Fut, T, E>(mut self, name: impl Into<String>, transactor: &'a X, body: F) -> Self
    where
        X: Transactor<DB> + ?Sized,
        F: Fn(Client<'a, X>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
        T: Debug,
        E: Display,
    {
        let run = move |options| -> BoxFuture<'a, ClientResult> {
            let done = body(transactor.with(options));
            Box::pin(async move { as_text(done.await) })
        };
        self.clients.push(ClientSetup { name: name.into(), run: Box::new(run) });
        self
    }

    /// Adds a client that starts in this way.
    pub(super) fn started_client(mut self, name: String, run: ClientFn<'a>) -> Self {
        self.clients.push(ClientSetup { name, run });
        self
    }

    /// Adds an invariant: after each schedule, `find` must return `expected`.
    pub fn expect<T, F, Fut, E>(self, name: impl Into<String>, expected: T, find: F) -> Self
    where
        T: PartialEq + Debug + Send + Sync + 'a,
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
        E: Display,
    {
        let expected = Arc::new(expected);
        self.check(name, move |pool| {
            let (found, expected) = (find(pool), expected.clone());
            Box::pin(async move {
                let found = match found.await {
                    Ok(found) if found == *expected => return Ok(()),
                    Ok(found) => format!("{found:?}"),
                    Err(error) => error.to_string(),
                };
                Err(Violation { expected: format!("{expected:?}"), found })
            })
        })
    }

    /// Adds an invariant that must hold after each schedule. An `Err` describes the state that violates it.
    pub fn invariant<F, Fut, E>(self, name: impl Into<String>, holds: F) -> Self
    where
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<(), E>> + Send + 'a,
        E: Display,
    {
        self.check(name, move |pool| {
            let holds = holds(pool);
            Box::pin(async move {
                let violation = |error: E| Violation {
                    expected: String::from("that it holds"),
                    found: error.to_string(),
                };
                holds.await.map_err(violation)
            })
        })
    }

    fn check<F>(mut self, name: impl Into<String>, check: F) -> Self
    where
        F: Fn(Pool<DB>) -> BoxFuture<'a, Result<(), Violation>> + Send + Sync + 'a,
    {
        self.invariants.push(Invariant { name: name.into(), check: Box::new(check) });
        self
    }

    /// Limits how many schedules are run; at least 1.
    ///
    /// The default is 1000. A report that reaches the default limit fails
    /// [`assert_passes`](Report::assert_passes); one that reaches a limit that is set here does not.
    pub fn max_schedules(mut self, schedules: usize) -> Self {
        self.max_schedules = Some(schedules.max(1));
        self
    }

    /// Runs one of the schedules that differ only in the order of steps which cannot affect each other. By
    /// default, all of them are run.
    ///
    /// Steps of different clients are independent if neither may have begun or ended a wait of the other one,
    /// and
    ///
    /// - one of them is BEGIN, or both are queries without locks, or at READ COMMITTED one is a query without
    ///   locks and the other one is no COMMIT, or both are queries with locks in share mode;
    /// - on PostgreSQL, MySQL and MariaDB at READ COMMITTED, if they concern different tables by their texts,
    ///   or insert rows into a table without unique keys and sequences; on PostgreSQL also if they concern
    ///   different rows of a table: `id = 1` and `id = 2`. This requires a database without triggers, foreign
    ///   keys, views, rules, row security, inheritance and functions of its own: a text does not show their
    ///   effects. The order of a transaction that was rolled back or has only read matters until its end;
    /// - on SQLite, if one is a BEGIN that finds the database busy, and the other one belongs to a
    ///   transaction that has locked it by `BEGIN IMMEDIATE`, or finds it busy as well.
    ///
    /// Everything else counts as dependent. Three units of three statements become a few hundred schedules
    /// instead of tens of thousands, and fewer without a limit of preemptions.
    ///
    /// Do not use this if the clients affect each other outside of the database, for example through a cache
    /// in the process: the order of their steps then matters in ways that no statement shows.
    pub fn skip_equivalent(mut self) -> Self {
        self.skips_equivalent = true;
        self
    }

    /// Limits the number of preemptions in a schedule: how often a client that could go on is made to wait.
    /// By default there is no limit.
    pub fn max_preemptions(mut self, preemptions: usize) -> Self {
        self.max_preemptions = preemptions;
        self
    }

    /// Limits the number of steps of a schedule. A longer one is reported as [endless](Problem::Endless). The
    /// default is 1000.
    pub fn max_steps(mut self, steps: usize) -> Self {
        self.max_steps = steps;
        self
    }

    /// Limits how long a client may be busy with anything but its steps and the locks of other clients.
    ///
    /// A schedule that exceeds it is reported as [stuck](Problem::Stuck). The limit must be longer than the
    /// server takes to detect a deadlock. The default is 10 s.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Accepts deadlocks: they are no counterexamples, as long as the retries that follow them succeed.
    pub fn allow_deadlocks(mut self) -> Self {
        self.deadlocks_allowed = true;
        self
    }

    /// Accepts steps that may be several statements: a text of several statements, a CALL, a block such as
    /// `DO $$…$$`, and everything that runs on [`Tx::connection`](crate::Tx::connection).
    ///
    /// Schedules in which another client takes a step in the middle of them are not explored, so the report
    /// is not [`complete`](Report::complete), and [`Report::gaps`] lists them.
    pub fn allow_unseen_statements(mut self) -> Self {
        self.unseen_allowed = true;
        self
    }
}

/// Formats the result of a client.
pub(super) fn as_text<T: Debug, E: Display>(result: Result<T, E>) -> ClientResult {
    result.map(|value| format!("{value:?}")).map_err(|error| error.to_string())
}

impl<DB: Backend> Debug for Explore<'_, DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clients = self.clients.iter().enumerate();
        let clients = clients.map(|(i, client)| format!("{}: {}", letter(i), client.name));
        f.debug_struct("Explore")
            .field("clients", &clients.collect::<Vec<_>>())
            .field("max_schedules", &self.max_schedules)
            .field("max_preemptions", &self.max_preemptions)
            .finish_non_exhaustive()
    }
}
