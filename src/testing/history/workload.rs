//! Clients that append to lists and read them.

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Pool;

use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Transactor, TransactorExt as _};
use crate::tx::Tx;

use super::recorder::{Attempt, Recorder, Session};
use super::table::ListTable;
use super::transaction::{History, Outcome};

/// Clients that append to a few lists and read them, at random and at the same time, through any transactor.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::history::{Appends, ListAppend, Outcome};
/// use atomically::{Isolation, Optimistic};
///
/// # let directory = tempfile::tempdir()?;
/// # let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("db")).create_if_missing(true);
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
/// let db = Optimistic::default().on(&pool);
/// let history = ListAppend::new().sessions(4).transactions(10).appends(Appends::Guarded).run(&pool, &db).await?;
/// assert!(history.count(Outcome::Committed) > 0);
/// history.check()?.assert(Isolation::Serializable);
/// # Ok(()) }
/// ```
///
/// # Default
///
/// 8 sessions of 25 transactions each, with up to 4 operations on 3 lists, half of them reads; appends are
/// [`InDatabase`](Appends::InDatabase); seed 0; table `list_append`.
///
/// # The table
///
/// It is made where it is missing. Each run has rows of its own in it, which stay: any number of runs, also
/// at the same time, get along with one table. Drop it when you like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListAppend {
    table: String,
    sessions: u32,
    transactions: u32,
    operations: u32,
    keys: u32,
    appends: Appends,
    seed: u64,
}

/// How a unit appends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Appends {
    /// In one statement: `SET elements = elements || '…'`.
    #[default]
    InDatabase,
    /// The unit reads with [`Tx::for_update`], writes the new list with a version check, and calls
    /// [`Tx::expect_one`]: right under every strategy.
    Guarded,
    /// The unit reads and writes, and trusts that nobody comes between: what the others are for.
    Unguarded,
}

impl Default for ListAppend {
    fn default() -> Self {
        Self::new()
    }
}

impl ListAppend {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            table: String::from("list_append"),
            sessions: 8,
            transactions: 25,
            operations: 4,
            keys: 3,
            appends: Appends::InDatabase,
            seed: 0,
        }
    }

    /// The name of the table. It goes into the statements as it is; quote it where your database asks for it.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// How many clients there are. More than the pool has connections will wait for each other.
    #[must_use]
    pub const fn sessions(mut self, sessions: u32) -> Self {
        self.sessions = sessions;
        self
    }

    /// How many units each of them runs.
    #[must_use]
    pub const fn transactions(mut self, transactions: u32) -> Self {
        self.transactions = transactions;
        self
    }

    /// How many operations a unit has at most; at least 1.
    #[must_use]
    pub const fn operations(mut self, operations: u32) -> Self {
        self.operations = if operations == 0 { 1 } else { operations };
        self
    }

    /// How many lists there are; at least 1.
    #[must_use]
    pub const fn keys(mut self, keys: u32) -> Self {
        self.keys = if keys == 0 { 1 } else { keys };
        self
    }

    /// How a unit appends.
    #[must_use]
    pub const fn appends(mut self, appends: Appends) -> Self {
        self.appends = appends;
        self
    }

    /// What the units are drawn from. The same seed makes the same units; in which order they run is the
    /// database's and the scheduler's affair.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs the clients, and answers what they did and saw, and what the lists held at the end.
    ///
    /// How a unit ended is written down and no error; but compare
    /// [`History::count`] with what you expect, lest nothing was committed.
    ///
    /// # Errors
    ///
    /// Those of making the table, and of reading the lists at the end, on the pool.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time, and drops the units that are running.
    pub async fn run<DB: Backend>(&self, pool: &Pool<DB>, db: &dyn Transactor<DB>) -> Result<History, Error> {
        let table = ListTable { name: self.table.clone(), run: rand::random_range(0..i64::MAX) };
        table.create(pool, i64::from(self.keys)).await?;
        let recorder = Recorder::new();
        join_all((0..self.sessions).map(|number| {
            let (session, table) = (recorder.session(), &table);
            async move {
                let mut random = StdRng::seed_from_u64(self.seed ^ (u64::from(number) << 32));
                for _ in 0..self.transactions {
                    self.run_unit(db, &session, table, &self.draw(&mut random)).await;
                }
            }
        }))
        .await;
        let mut history = recorder.history();
        for (key, list) in table.read_all(pool).await? {
            history = history.ending_with(key, list);
        }
        Ok(history)
    }

    fn draw(&self, random: &mut StdRng) -> Vec<Step> {
        let operations = random.random_range(1..=self.operations);
        let step = |_| {
            let key = i64::from(random.random_range(1..=self.keys));
            if random.random_bool(0.5) { Step::Read(key) } else { Step::Append(key) }
        };
        (0..operations).map(step).collect()
    }

    async fn run_unit<DB: Backend>(
        &self,
        db: &dyn Transactor<DB>,
        session: &Session,
        table: &ListTable,
        steps: &[Step],
    ) {
        let (run, appends) = (session.begin(), self.appends);
        let attempted = &run;
        let result: Result<(), Error> = db
            .run(async move |tx: &mut Tx<DB>| {
                let attempt = attempted.attempt();
                for &step in steps {
                    take(tx, table, appends, &attempt, step).await?;
                }
                Ok(())
            })
            .await;
        run.end(Outcome::of(&result));
    }
}

/// One operation that a unit is going to do.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read(i64),
    Append(i64),
}

async fn take<DB: Backend>(
    tx: &mut Tx<DB>,
    table: &ListTable,
    appends: Appends,
    attempt: &Attempt,
    step: Step,
) -> Result<(), Error> {
    let guarded = appends != Appends::Unguarded;
    match step {
        Step::Read(key) => {
            let (list, _) = table.read(tx, key, guarded).await?;
            attempt.read(key, list);
        }
        Step::Append(key) if appends == Appends::InDatabase => {
            let value = attempt.append(key);
            table.append(tx, key, value).await?;
        }
        Step::Append(key) => {
            let (mut list, version) = table.read(tx, key, guarded).await?;
            attempt.read(key, list.as_slice());
            let value = attempt.append(key);
            list.push(value);
            let rows = table.write(tx, key, &list, guarded.then_some(version)).await?;
            tx.expect_one(rows)?;
        }
    }
    Ok(())
}
