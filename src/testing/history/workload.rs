//! A workload of clients that append to lists and read them.

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Pool;

use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Transactor, TransactorExt as _};
use crate::tx::Tx;

use super::recorder::{RecordedAttempt, Recorder, Session};
use super::table::ListTable;
use super::transaction::History;

/// A workload: concurrent clients that append to random lists and read them, through any transactor.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use atomically::testing::history::{Appends, ListAppend, TransactionOutcome};
/// use atomically::{Isolation, Optimistic};
///
/// # let directory = tempfile::tempdir()?;
/// # use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
/// # let file = directory.path().join("db");
/// # let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
/// # let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
/// let db = Optimistic::default().on(&pool);
/// let load = ListAppend::new().sessions(4).transactions(10).appends(Appends::Guarded);
/// let history = load.run(&pool, &db).await?;
/// assert!(history.count(TransactionOutcome::Committed) > 0);
/// history.check()?.assert(Isolation::Serializable);
/// # Ok(()) }
/// ```
///
/// # Defaults
///
/// 8 sessions of 25 transactions each, with up to 4 operations on 3 lists, half of them reads; appends are
/// [`InDatabase`](Appends::InDatabase); seed 0; table `list_append`.
///
/// # Table
///
/// The table is created if it does not exist. Each run adds rows of its own and leaves them there, so
/// concurrent runs can share a table. Drop it at any time between runs.
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
    /// The database appends in one statement: `SET elements = elements || '…'`.
    #[default]
    InDatabase,
    /// The unit reads with [`Tx::for_update`], writes the new list with a version check, and calls
    /// [`Tx::expect_one`]. This is correct under every strategy.
    Guarded,
    /// The unit reads the list and writes the new list without a guard. This loses updates below
    /// SERIALIZABLE.
    Unguarded,
}

impl Default for ListAppend {
    fn default() -> Self {
        Self::new()
    }
}

impl ListAppend {
    /// Creates the default workload.
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

    /// Sets the name of the table. It is inserted into the statements unchanged, so quote it if necessary.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Sets the number of concurrent clients. Those beyond the size of the pool wait for a connection.
    #[must_use]
    pub const fn sessions(mut self, sessions: u32) -> Self {
        self.sessions = sessions;
        self
    }

    /// Sets the number of units that each client runs.
    #[must_use]
    pub const fn transactions(mut self, transactions: u32) -> Self {
        self.transactions = transactions;
        self
    }

    /// Sets the maximum number of operations in a unit; at least 1.
    #[must_use]
    pub const fn operations(mut self, operations: u32) -> Self {
        self.operations = if operations == 0 { 1 } else { operations };
        self
    }

    /// Sets the number of lists; at least 1.
    #[must_use]
    pub const fn keys(mut self, keys: u32) -> Self {
        self.keys = if keys == 0 { 1 } else { keys };
        self
    }

    /// Sets how a unit appends.
    #[must_use]
    pub const fn appends(mut self, appends: Appends) -> Self {
        self.appends = appends;
        self
    }

    /// Sets the seed from which the units are generated.
    ///
    /// The same seed generates the same units. Their interleaving still differs from run to run.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs the workload and returns its history, with the final state of the lists.
    ///
    /// A unit that fails is recorded and is not an error. Compare [`History::count`] with the number that you
    /// expect, so that a run without commits is noticed.
    ///
    /// # Errors
    ///
    /// Errors of creating the table, and of reading the lists at the end.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. The running units are dropped as well.
    pub async fn run<DB: Backend>(&self, pool: &Pool<DB>, db: &dyn Transactor<DB>) -> Result<History, Error> {
        let table = ListTable { name: self.table.clone(), run: rand::random_range(0..i64::MAX) };
        table.create(pool, i64::from(self.keys)).await?;
        let recorder = Recorder::new();
        let sessions = (0..self.sessions).map(|number| {
            let (session, table) = (recorder.session(), &table);
            async move {
                let mut random = StdRng::seed_from_u64(self.seed ^ (u64::from(number) << 32));
                for _ in 0..self.transactions {
                    self.run_unit(db, &session, table, &self.generate(&mut random)).await;
                }
            }
        });
        join_all(sessions).await;
        let mut history = recorder.history();
        for (key, list) in table.read_all(pool).await? {
            history = history.ending_with(key, list);
        }
        Ok(history)
    }

    fn generate(&self, random: &mut StdRng) -> Vec<PlannedOperation> {
        let count = random.random_range(1..=self.operations);
        let operation = |_| {
            let key = i64::from(random.random_range(1..=self.keys));
            if random.random_bool(0.5) { PlannedOperation::Read(key) } else { PlannedOperation::Append(key) }
        };
        (0..count).map(operation).collect()
    }

    async fn run_unit<DB: Backend>(
        &self,
        db: &dyn Transactor<DB>,
        session: &Session,
        table: &ListTable,
        operations: &[PlannedOperation],
    ) {
        let (run, appends) = (session.begin(), self.appends);
        let recorded = &run;
        let result: Result<RecordedAttempt, Error> = db
            .run(async move |tx: &mut Tx<DB>| {
                let attempt = recorded.attempt();
                for &operation in operations {
                    perform(tx, table, appends, &attempt, operation).await?;
                }
                Ok(attempt)
            })
            .await;
        run.end_as(&result);
    }
}

/// An operation that a unit is going to perform on a list.
#[derive(Debug, Clone, Copy)]
enum PlannedOperation {
    Read(i64),
    Append(i64),
}

async fn perform<DB: Backend>(
    tx: &mut Tx<DB>,
    table: &ListTable,
    appends: Appends,
    attempt: &RecordedAttempt,
    operation: PlannedOperation,
) -> Result<(), Error> {
    let is_guarded = appends != Appends::Unguarded;
    match operation {
        PlannedOperation::Read(key) => {
            let (list, _) = table.read(tx, key, is_guarded).await?;
            attempt.read(key, list);
        }
        PlannedOperation::Append(key) if appends == Appends::InDatabase => {
            let value = attempt.append(key);
            table.append(tx, key, value).await?;
        }
        PlannedOperation::Append(key) => {
            let (mut list, version) = table.read(tx, key, is_guarded).await?;
            attempt.read(key, list.as_slice());
            let value = attempt.append(key);
            list.push(value);
            let rows = table.write(tx, key, &list, is_guarded.then_some(version)).await?;
            tx.expect_one(rows)?;
        }
    }
    Ok(())
}
