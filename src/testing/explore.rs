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

mod drive;
mod gap;
mod lanes;
mod log;
mod report;
mod run;
mod schedule;
mod search;
mod several;
mod stage;
mod view;

pub use gap::Gap;
pub use report::{Counterexample, Problem, Report, Unexplored};
use run::End;
use schedule::letter;
pub use schedule::{BadSchedule, Schedule};

/// Begins an exploration on a database: see [`Explore`].
pub fn explore<'a, DB: Backend>(pool: &Pool<DB>) -> Explore<'a, DB> {
    Explore {
        pool: pool.clone(),
        set_up: Box::new(|_| Box::pin(async { Ok(()) })),
        clients: Vec::new(),
        invariants: Vec::new(),
        max_schedules: None,
        max_preemptions: usize::MAX,
        max_steps: 1000,
        patience: Duration::from_secs(10),
        deadlocks: false,
        unseen: false,
    }
}

/// Drives units of work through every order of their statements, and checks what must hold after each: what a
/// model checker does for threads, done for transactions on a real database.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::explore;
/// use atomically::{Error, Pessimistic, Tx};
/// use sqlx::{Sqlite, SqlitePool};
///
/// async fn take_one(tx: &mut Tx<Sqlite>) -> Result<(), Error> {
///     let stock: i64 = sqlx::query_scalar(tx.for_update("SELECT stock FROM product")).fetch_one(&mut *tx).await?;
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
///     .set_up(|pool| async move { sqlx::raw_sql("DELETE FROM product; INSERT INTO product VALUES (10)").execute(&pool).await })
///     .unit("alice", &db, take_one)
///     .unit("bob", &db, take_one)
///     .expect("stock", 8_i64, |pool| async move { sqlx::query_scalar("SELECT stock FROM product").fetch_one(&pool).await })
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
/// A transaction of this crate sees every statement that its unit sends, so each can be held back until it is
/// its turn. One client at a time takes a step: BEGIN, a statement, a savepoint, COMMIT or ROLLBACK. One that
/// waits for a lock is recognised by asking the server, and the others go on. What a unit does when it fails
/// is part of the schedule: its retries are explored as well, without their delays.
///
/// The first schedule is run twice, and each later one begins like an earlier one. Where the same beginning
/// leads somewhere else, the schedule has [diverged](Problem::Diverged), which is a finding: what lies behind
/// it is unknown.
///
/// The first schedules are the ones with the fewest preemptions: those in which a client that could go on is
/// rarely made to wait. Most bugs need one or two, and the example that is found first is the simplest.
///
/// # Default
///
/// - at most 1000 schedules, with any number of preemptions. If there are more,
///   [`assert_passes`](Report::assert_passes) fails, unless [`max_schedules`](Self::max_schedules) or
///   [`max_preemptions`](Self::max_preemptions) sets the limit.
/// - a deadlock is a finding ([`allow_deadlocks`](Self::allow_deadlocks)), and so is a client that ends with
///   an error
///
/// # What it takes
///
/// - A pool with a connection for each client and one more, and a database that nobody else uses meanwhile.
/// - *PostgreSQL*: a deadlock lasts `deadlock_timeout`, 1 s by default, before the server ends it; set 100 ms
///   on a server for tests. Not less: which transaction is ended then depends on who came first, and a
///   schedule must end the same way each time.
/// - *MySQL and MariaDB*: the privilege `PROCESS`, for `SHOW ENGINE INNODB STATUS`.
/// - *SQLite*: a file, not `:memory:`, which has one connection only. There is nobody to ask; a statement
///   that finds the database busy is sent again after another client's transaction has ended, which is what
///   SQLite does by itself.
///
/// - One unit at a time per client: two that run at the same time (`tokio::join!`) are
///   [refused](Unexplored::SideBySide). Give each unit a client of its own.
/// - The same behavior in each schedule. A transactor that learns, as [`Adaptive`](crate::Adaptive) does,
///   remembers what happened in earlier schedules; explore the strategies that it chooses between.
///
/// # What it does not see
///
/// Schedules are orders of *steps*. The [guide](crate::guide::testing) lists what that leaves out: what
/// happens inside of a statement, outside of the `tx`, in the server's queue for a lock, and through the
/// passing of time. A report says so in [`gaps`](Report::gaps) where the exploration itself can tell.
///
/// A unit that waits for another one by means that are not seen is [stuck](Problem::Stuck).
#[must_use = "it does nothing until it is run"]
pub struct Explore<'a, DB: Backend> {
    pool: Pool<DB>,
    set_up: CheckFn<'a, DB, Result<(), String>>,
    clients: Vec<Named<Body<'a>>>,
    invariants: Vec<Named<CheckFn<'a, DB, Option<Broken>>>>,
    max_schedules: Option<usize>,
    max_preemptions: usize,
    max_steps: usize,
    patience: Duration,
    deadlocks: bool,
    unseen: bool,
}

type Body<'a> = Box<dyn Fn(Options) -> BoxFuture<'a, End> + Send + Sync + 'a>;
type CheckFn<'a, DB, T> = Box<dyn Fn(Pool<DB>) -> BoxFuture<'a, T> + Send + Sync + 'a>;

struct Named<T> {
    name: String,
    what: T,
}

/// What was expected of an invariant, and what was found.
struct Broken {
    expected: String,
    found: String,
}

/// What a client of an exploration runs its units on: its transactor, each of whose steps waits for its turn.
pub type Client<'a, X> = With<'a, X>;

impl<'a, DB: Backend> Explore<'a, DB> {
    /// What is done before each schedule: it brings the tables back to where they began.
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

    /// A client that runs one unit of work, which must succeed.
    pub fn unit<X, F, T, E>(self, name: impl Into<String>, transactor: &'a X, unit: F) -> Self
    where
        X: Transactor<DB> + ?Sized,
        F: UnitFn<DB, T, E> + 'a,
        T: Send + 'a,
        E: From<Error> + Display + Send + 'a,
    {
        self.client(name, transactor, move |client| {
            let unit = unit.clone();
            async move { client.run(unit).await }
        })
    }

    /// A client that does more than running one unit: it runs several, or knows which errors it has to
    /// expect.
    ///
    /// ```
    /// # use atomically::testing::Explore;
    /// # use atomically::{Error, Pessimistic, TransactorExt as _, Transactor, Tx};
    /// # enum Booking { SoldOut, Other(Error) }
    /// # impl From<Error> for Booking { fn from(error: Error) -> Self { Self::Other(error) } }
    /// # impl std::fmt::Display for Booking { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
    /// # async fn book(tx: &mut Tx<sqlx::Sqlite>) -> Result<(), Booking> { Ok(()) }
    /// # fn example<'a>(explore: Explore<'a, sqlx::Sqlite>, db: &'a dyn Transactor<sqlx::Sqlite>) -> Explore<'a, sqlx::Sqlite> {
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
        E: Display,
    {
        let what = move |options| -> BoxFuture<'a, End> {
            let done = body(transactor.with(options));
            Box::pin(async move { done.await.map(|_| ()).map_err(|error| error.to_string()) })
        };
        self.clients.push(Named { name: name.into(), what: Box::new(what) });
        self
    }

    /// What must be found after each schedule.
    pub fn expect<T, F, Fut, E>(mut self, name: impl Into<String>, expected: T, find: F) -> Self
    where
        T: PartialEq + Debug + Send + Sync + 'a,
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
        E: Display,
    {
        let expected = Arc::new(expected);
        let what = move |pool| -> BoxFuture<'a, Option<Broken>> {
            let (found, expected) = (find(pool), expected.clone());
            Box::pin(async move {
                let found = match found.await {
                    Ok(found) if found == *expected => return None,
                    Ok(found) => format!("{found:?}"),
                    Err(error) => error.to_string(),
                };
                Some(Broken { expected: format!("{expected:?}"), found })
            })
        };
        self.invariants.push(Named { name: name.into(), what: Box::new(what) });
        self
    }

    /// What must hold after each schedule: an `Err` says what was found instead.
    pub fn invariant<F, Fut, E>(mut self, name: impl Into<String>, holds: F) -> Self
    where
        F: Fn(Pool<DB>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<(), E>> + Send + 'a,
        E: Display,
    {
        let what = move |pool| -> BoxFuture<'a, Option<Broken>> {
            let holds = holds(pool);
            Box::pin(async move {
                let found = holds.await.err()?.to_string();
                Some(Broken { expected: String::from("that it holds"), found })
            })
        };
        self.invariants.push(Named { name: name.into(), what: Box::new(what) });
        self
    }

    /// How many schedules are run at most. Whoever sets this agrees that there may be more, which
    /// [`assert_passes`](Report::assert_passes) does not with the default of 1000.
    pub fn max_schedules(mut self, schedules: usize) -> Self {
        self.max_schedules = Some(schedules.max(1));
        self
    }

    /// How often, at most, a client that could go on is made to wait in a schedule.
    pub fn max_preemptions(mut self, preemptions: usize) -> Self {
        self.max_preemptions = preemptions;
        self
    }

    /// After how many steps a schedule is given up as endless; 1000 by default.
    pub fn max_steps(mut self, steps: usize) -> Self {
        self.max_steps = steps;
        self
    }

    /// How long a client may be busy with something else than its steps and the locks of others; 10 s by
    /// default, and longer than the server takes to notice a deadlock.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Deadlocks are no finding: the units are run again after one, and what counts is that they succeed.
    pub fn allow_deadlocks(mut self) -> Self {
        self.deadlocks = true;
        self
    }

    /// Agrees that a text of several statements is one step, and so is a CALL, a block like `DO $$…$$`, and
    /// all that runs on [`Tx::connection`](crate::Tx::connection): what other clients could do in the middle
    /// of it is not explored.
    ///
    /// The exploration is not complete then, and [`Report::gaps`] says why.
    pub fn allow_unseen_statements(mut self) -> Self {
        self.unseen = true;
        self
    }
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
