//! Writes down what clients do, while they do it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tx::SavepointScope;

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
    attempts: Vec<Noted>,
    sessions: u32,
    value: i64,
    time: u64,
}

/// An attempt, as far as it is known.
struct Noted {
    session: u32,
    began: u64,
    /// When it did something the last time: the next attempt of its unit has not sent anything before that.
    active: u64,
    ended: Option<u64>,
    outcome: Outcome,
    operations: Vec<(Operation, Option<Arc<SavepointScope>>)>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }
}

impl Noted {
    /// The transaction; and what savepoints have taken back of it, which never was.
    fn transactions(&self) -> impl Iterator<Item = Transaction> {
        let is_undone =
            |scope: &Option<Arc<SavepointScope>>| scope.as_ref().is_some_and(|scope| scope.is_undone());
        let operations = |undone: bool| {
            let all = self.operations.iter().filter(move |(_, scope)| is_undone(scope) == undone);
            all.map(|(operation, _)| operation.clone()).collect::<Vec<_>>()
        };
        let transaction = |operations: Vec<Operation>, outcome| Transaction {
            session: Some(self.session),
            began: Some(self.began),
            ended: self.ended,
            outcome,
            ..Transaction::unknown(operations)
        };
        let undone = operations(true);
        let undone = (!undone.is_empty()).then(|| transaction(undone, Outcome::Aborted));
        std::iter::once(transaction(operations(false), self.outcome)).chain(undone)
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
        self.state().attempts.iter().flat_map(Noted::transactions).collect()
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
    /// The run of a unit is about to begin: say so before anything is sent for it.
    #[must_use]
    pub fn begin(&self) -> Run {
        let begun = self.recorder.state().tick();
        Run { session: self.clone(), begun, latest: Mutex::new(None) }
    }
}

/// One run of a unit. Dropped without an [`end`](Self::end), its last attempt stays unknown, as that of a run
/// that is dropped is.
pub struct Run {
    session: Session,
    begun: u64,
    latest: Mutex<Option<usize>>,
}

impl Run {
    /// An attempt begins: the first thing that the unit does. The one before it has aborted.
    ///
    /// By then its transaction is open, and may have a snapshot. So it counts as begun from the moment at
    /// which its first packet may have been sent: since the [run began](Session::begin), or since the attempt
    /// before it did something.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        let mut state = self.session.recorder.state();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = latest.and_then(|before| state.attempts.get(before));
        let began = before.map_or(self.begun, |before| before.active);
        finish(&mut state, latest.take(), Outcome::Aborted);
        let active = state.tick();
        let index = state.attempts.len();
        state.attempts.push(Noted {
            session: self.session.number,
            began,
            active,
            ended: None,
            outcome: Outcome::Unknown,
            operations: Vec::new(),
        });
        *latest = Some(index);
        Attempt { recorder: self.session.recorder.clone(), index }
    }

    /// The run has ended; what became of its last attempt.
    pub fn end(self, outcome: Outcome) {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        finish(&mut self.session.recorder.state(), latest, outcome);
    }
}

fn finish(state: &mut State, attempt: Option<usize>, outcome: Outcome) {
    let Some(index) = attempt else { return };
    let ended = state.tick();
    if let Some(attempt) = state.attempts.get_mut(index) {
        attempt.outcome = outcome;
        attempt.ended = Some(ended);
    }
}

/// One attempt of a unit, and what it does.
///
/// What it does inside of a [`Tx::savepoint`](crate::Tx::savepoint) that is rolled back counts as a
/// transaction of its own that has aborted. Whatever else takes an append back has to be
/// [said](Self::not_appended): a savepoint that the unit sets by itself, or a statement that failed where the
/// database undoes the statement alone.
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

    /// The append of this value has failed or was undone, and the transaction goes on without it.
    pub fn not_appended(&self, key: i64, value: i64) {
        let mut state = self.recorder.state();
        let Some(attempt) = state.attempts.get_mut(self.index) else { return };
        for (operation, scope) in &mut attempt.operations {
            if *operation == (Operation::Append { key, value }) {
                let undone = SavepointScope::default();
                undone.undo();
                *scope = Some(Arc::new(undone));
            }
        }
    }

    fn note(&self, state: &mut State, operation: Operation) {
        let active = state.tick();
        if let Some(attempt) = state.attempts.get_mut(self.index) {
            attempt.active = active;
            attempt.operations.push((operation, SavepointScope::current()));
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.state().attempts.len();
        f.debug_struct("Recorder").field("attempts", &attempts).finish_non_exhaustive()
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
        f.debug_struct("Attempt").field("number", &(self.index + 1)).finish_non_exhaustive()
    }
}
