//! Records the operations of clients while they run.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::tx::SavepointScope;

use super::transaction::{History, Operation, Transaction, TransactionOutcome};

/// Records the appends and reads of your own units of work.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use atomically::{Error, Isolation, Pessimistic, TransactorExt as _};
/// # use atomically::testing::history::{Recorder, TransactionOutcome};
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect("sqlite::memory:").await?;
/// # sqlx::query("CREATE TABLE entry (ledger INTEGER, id INTEGER PRIMARY KEY)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
/// let recorder = Recorder::new();
/// let session = recorder.session();
///
/// let run = session.begin();
/// let result = db
///     .run(async |tx| -> Result<_, Error> {
///         let attempt = run.attempt();
///         let select = "SELECT id FROM entry WHERE ledger = 1 ORDER BY id";
///         let ids = sqlx::query_scalar(select).fetch_all(&mut *tx).await?;
///         attempt.read(1, ids);
///         let id = attempt.append(1);
///         sqlx::query("INSERT INTO entry VALUES (1, $1)").bind(id).execute(&mut *tx).await?;
///         Ok(())
///     })
///     .await;
/// run.end(TransactionOutcome::of(&result));
///
/// recorder.history().check()?.assert(Isolation::Serializable);
/// # Ok(()) }
/// ```
///
/// Each attempt of a unit is recorded as a transaction. An attempt that is followed by another one counts as
/// aborted, so a transactor that retries after an unknown commit is detected as an aborted read. On a cluster
/// whose commits are [resolved](crate::Options::resolve_commits), an attempt may be stored although another
/// one has followed it: let the unit return its attempt, and end the run with
/// [`end_as`](RecordedRun::end_as).
///
/// Clones record into the same history.
#[derive(Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<RecorderState>>,
}

#[derive(Default)]
struct RecorderState {
    attempts: Vec<AttemptRecord>,
    sessions: u32,
    value: i64,
    time: u64,
}

struct AttemptRecord {
    session: u32,
    began: u64,
    /// The time of its last operation. The next attempt of its unit has sent nothing before that.
    last_active: u64,
    ended: Option<u64>,
    outcome: TransactionOutcome,
    operations: Vec<(Operation, Option<Arc<SavepointScope>>)>,
}

impl RecorderState {
    fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }
}

impl AttemptRecord {
    /// The transaction, and the operations that savepoints have undone as an aborted transaction.
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
        let undone = (!undone.is_empty()).then(|| transaction(undone, TransactionOutcome::Aborted));
        std::iter::once(transaction(operations(false), self.outcome)).chain(undone)
    }
}

impl Recorder {
    /// Creates a recorder with an empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a session: a client that runs its units one after another.
    #[must_use]
    pub fn session(&self) -> Session {
        let mut state = self.state();
        state.sessions += 1;
        Session { recorder: self.clone(), number: state.sessions }
    }

    /// Returns the history so far. The outcome of runs that have not ended is unknown.
    #[must_use]
    pub fn history(&self) -> History {
        self.state().attempts.iter().flat_map(AttemptRecord::transactions).collect()
    }

    fn state(&self) -> MutexGuard<'_, RecorderState> {
        // A panic while the lock is held cannot leave the state inconsistent.
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
    /// Records that a unit is about to run. Call this before the run, so that nothing was sent yet.
    #[must_use]
    pub fn begin(&self) -> RecordedRun {
        let begun = self.recorder.state().tick();
        RecordedRun { session: self.clone(), begun, latest: Mutex::new(None) }
    }
}

/// The run of a unit that is being recorded.
///
/// If it is dropped without calling [`end`](Self::end), the outcome of its last attempt is unknown.
pub struct RecordedRun {
    session: Session,
    begun: u64,
    latest: Mutex<Option<usize>>,
}

impl RecordedRun {
    /// Records that an attempt begins. Call this first in the unit. The previous attempt counts as aborted.
    ///
    /// The transaction is open by then and may have a snapshot. So the attempt counts as begun from the
    /// moment at which its first packet may have been sent: since the [run began](Session::begin), or since
    /// the last operation of the previous attempt.
    #[must_use]
    pub fn attempt(&self) -> RecordedAttempt {
        let mut state = self.session.recorder.state();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = latest.and_then(|before| state.attempts.get(before));
        let began = before.map_or(self.begun, |before| before.last_active);
        finish(&mut state, latest.take(), TransactionOutcome::Aborted);
        let last_active = state.tick();
        let index = state.attempts.len();
        state.attempts.push(AttemptRecord {
            session: self.session.number,
            began,
            last_active,
            ended: None,
            outcome: TransactionOutcome::Unknown,
            operations: Vec::new(),
        });
        *latest = Some(index);
        RecordedAttempt { recorder: self.session.recorder.clone(), index }
    }

    /// Records that the run has ended with this result of its unit, which returns its attempt. If the run
    /// was successful, that attempt is the one that committed.
    pub fn end_as(self, result: &Result<RecordedAttempt, Error>) {
        if let Ok(attempt) = result {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            if *latest != Some(attempt.index) {
                let last = latest.replace(attempt.index);
                finish(&mut self.session.recorder.state(), last, TransactionOutcome::Aborted);
            }
        }
        self.end(TransactionOutcome::of(result));
    }

    /// Records that the run has ended, with the outcome of its last attempt.
    pub fn end(self, outcome: TransactionOutcome) {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        finish(&mut self.session.recorder.state(), latest, outcome);
    }
}

fn finish(state: &mut RecorderState, attempt: Option<usize>, outcome: TransactionOutcome) {
    let Some(index) = attempt else { return };
    let ended = state.tick();
    if let Some(attempt) = state.attempts.get_mut(index) {
        attempt.outcome = outcome;
        attempt.ended = Some(ended);
    }
}

/// An attempt of a unit, and its operations.
///
/// Operations inside a [`Tx::savepoint`](crate::Tx::savepoint) that is rolled back are recorded as an aborted
/// transaction of their own. If anything else undoes an append, call [`not_appended`](Self::not_appended):
/// for a savepoint that the unit sets with its own SQL, or for a failed statement after which the transaction
/// goes on.
pub struct RecordedAttempt {
    recorder: Recorder,
    index: usize,
}

impl RecordedAttempt {
    /// Records an append to a list, and returns the value to append. No other append of this recorder has the
    /// same value.
    #[must_use]
    pub fn append(&self, key: i64) -> i64 {
        let mut state = self.recorder.state();
        state.value += 1;
        let value = state.value;
        self.record(&mut state, Operation::Append { key, value });
        value
    }

    /// Records that the attempt has read a list.
    pub fn read(&self, key: i64, list: impl Into<Vec<i64>>) {
        self.record(&mut self.recorder.state(), Operation::read(key, list));
    }

    /// Records that the append of this value failed or was undone, and that the transaction goes on without
    /// it.
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

    fn record(&self, state: &mut RecorderState, operation: Operation) {
        let now = state.tick();
        if let Some(attempt) = state.attempts.get_mut(self.index) {
            attempt.last_active = now;
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

impl fmt::Debug for RecordedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedRun").field("session", &self.session.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for RecordedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedAttempt").field("number", &(self.index + 1)).finish_non_exhaustive()
    }
}
