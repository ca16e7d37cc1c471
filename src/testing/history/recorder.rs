//! Writes down what clients do, while they do it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::transaction::{History, Operation, Outcome, Transaction};

/// Writes down the appends and reads of your own units of work.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use atomically::{Error, Isolation, Pessimistic, TransactorExt as _};
/// # use atomically::testing::history::{Outcome, Recorder};
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::query("CREATE TABLE entry (ledger INTEGER, id INTEGER PRIMARY KEY)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
/// let recorder = Recorder::new();
/// let session = recorder.session();
///
/// let run = session.begin();
/// let result = db
///     .run(async |tx| {
///         let attempt = run.attempt();
///         let ids = sqlx::query_scalar("SELECT id FROM entry WHERE ledger = 1 ORDER BY id").fetch_all(&mut *tx).await?;
///         attempt.read(1, ids);
///         let id = attempt.append(1);
///         sqlx::query("INSERT INTO entry VALUES (1, $1)").bind(id).execute(&mut *tx).await?;
///         Ok::<_, Error>(())
///     })
///     .await;
/// run.end(Outcome::of(&result));
///
/// recorder.history().check()?.assert(Isolation::Serializable);
/// # Ok(()) }
/// ```
///
/// Each attempt of a unit is a transaction of its own. One that is followed by another attempt has aborted: a
/// transactor that runs a unit again after a commit whose outcome it does not know shows as an aborted read.
///
/// Clones write into one history. There is no state outside of it.
#[derive(Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    history: History,
    sessions: u32,
    value: i64,
    time: u64,
}

impl State {
    fn tick(&mut self) -> Option<u64> {
        self.time += 1;
        Some(self.time)
    }
}

impl Recorder {
    /// Nothing written down yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client that runs its units one after another.
    #[must_use]
    pub fn session(&self) -> Session {
        let mut state = self.state();
        state.sessions += 1;
        Session { recorder: self.clone(), number: state.sessions }
    }

    /// What was written down so far. What has not ended yet is unknown.
    #[must_use]
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole between any two statements, also when somebody has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of a [`Recorder`].
#[derive(Clone)]
pub struct Session {
    recorder: Recorder,
    number: u32,
}

impl Session {
    /// The run of a unit is about to begin.
    #[must_use]
    pub fn begin(&self) -> Run {
        Run { session: self.clone(), latest: Mutex::new(None) }
    }
}

/// One run of a unit. Dropped without an [`end`](Self::end), its last attempt stays unknown, as that of a run that is
/// dropped is.
pub struct Run {
    session: Session,
    latest: Mutex<Option<usize>>,
}

impl Run {
    /// An attempt begins: the first thing that the unit does. The one before it has aborted.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        let mut state = self.session.recorder.state();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        finish(&mut state, latest.take(), Outcome::Aborted);
        let transaction = Transaction {
            session: Some(self.session.number),
            began: state.tick(),
            ..Transaction::unknown([])
        };
        let index = state.history.transactions.len();
        state.history.push(transaction);
        *latest = Some(index);
        Attempt { recorder: self.session.recorder.clone(), index }
    }

    /// The run has ended; what became of its last attempt.
    pub fn end(self, outcome: Outcome) {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        finish(&mut self.session.recorder.state(), latest, outcome);
    }
}

fn finish(state: &mut State, transaction: Option<usize>, outcome: Outcome) {
    let Some(index) = transaction else { return };
    let ended = state.tick();
    if let Some(transaction) = state.history.transactions.get_mut(index) {
        transaction.outcome = outcome;
        transaction.ended = ended;
    }
}

/// One attempt of a unit, and what it does.
pub struct Attempt {
    recorder: Recorder,
    index: usize,
}

impl Attempt {
    /// It is going to append to a list: this value, which nobody has appended before.
    #[must_use]
    pub fn append(&self, key: i64) -> i64 {
        let mut state = self.recorder.state();
        state.value += 1;
        let value = state.value;
        self.note(&mut state, Operation::Append { key, value });
        value
    }

    /// It has read a list.
    pub fn read(&self, key: i64, list: impl Into<Vec<i64>>) {
        self.note(&mut self.recorder.state(), Operation::read(key, list));
    }

    fn note(&self, state: &mut State, operation: Operation) {
        if let Some(transaction) = state.history.transactions.get_mut(self.index) {
            transaction.operations.push(operation);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transactions = self.state().history.transactions.len();
        f.debug_struct("Recorder").field("transactions", &transactions).finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("session", &self.session.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("transaction", &(self.index + 1)).finish_non_exhaustive()
    }
}
