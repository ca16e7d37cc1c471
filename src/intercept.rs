//! What may stand between transactions and their database, a step at a time: the test kit does.

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Weak};

use async_trait::async_trait;

use crate::failure::Failure;

/// Sees everything that is asked of a database, and may hold it back or put a fault in its place.
#[async_trait]
pub(crate) trait Interceptor: Debug + Send + Sync {
    /// Whether steps are to say which of the server's sessions they run in; that costs a round trip per
    /// transaction.
    fn wants_sessions(&self) -> bool {
        false
    }

    /// Called when a unit begins to wait in line, in this process, for others to end; and when it no longer
    /// does.
    fn at_gate(&self, _waits: bool) {}

    /// Called before a step is sent for the first time, which waits for the answer. `Some` is what happens
    /// instead.
    async fn before(&self, step: &Step) -> Option<Fault>;

    /// Called when a unit asks for the connection itself: what it sends there does not pass here.
    fn unwatched(&self) {}

    /// Called with what a step was answered.
    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next;
}

/// Something that is asked of a database.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) attempt: u32,
    /// How many attempts there are at most.
    pub(crate) max_attempts: u32,
    pub(crate) transaction: TransactionToken,
    pub(crate) sql: String,
    /// The values that are bound, as SQL would spell them, where they can be read.
    pub(crate) arguments: Option<Vec<String>>,
    /// The server's name for the session.
    pub(crate) session: Option<i64>,
}

/// Tells the transactions apart that steps belong to.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransactionToken(Weak<()>);

impl TransactionToken {
    /// The token of the transaction that keeps `owner` for as long as it is in use.
    pub(crate) fn of(owner: &Arc<()>) -> Self {
        Self(Arc::downgrade(owner))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// Whether the transaction may still send something.
    #[cfg(feature = "testing")]
    pub(crate) fn is_in_use(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// What a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StepKind {
    /// Opens the transaction.
    Begin,
    /// A statement of the unit's own.
    Statement,
    /// A savepoint or an advisory lock.
    Control,
    /// Commits the transaction.
    Commit,
    /// Rolls it back.
    Rollback,
}

impl StepKind {
    pub(crate) const fn ends_transaction(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }
}

/// What goes wrong in place of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The server finds that it cannot put the transaction into a serial order.
    SerializationFailure,
    /// The server ends the transaction to break a cycle of waits.
    Deadlock,
    /// The server grants no lock in time.
    LockTimeout,
    /// The connection breaks before the step reaches the server.
    ConnectionLost,
    /// The server does what it is asked, and the connection breaks before it can say so.
    AnswerLost,
}

/// What a step was answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatementAnswer {
    pub(crate) failure: Option<Failure>,
    /// How many rows were read.
    pub(crate) rows_read: usize,
    /// The first of them, as text.
    pub(crate) rows: Vec<String>,
    /// How many rows were written, where the database says so.
    pub(crate) rows_affected: Option<u64>,
    /// What a text of the crate's own was answered.
    pub(crate) integers: Vec<i64>,
}

impl StatementAnswer {
    /// How many rows are kept as text: who reads them wants to see what was read, not all of it.
    const ROWS_SHOWN: usize = 3;

    pub(crate) fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    pub(crate) fn affected(rows: u64) -> Self {
        Self { rows_affected: Some(rows), ..Self::default() }
    }

    pub(crate) fn of_rows<'r, R: 'r>(rows: impl IntoIterator<Item = &'r R>, show: fn(&R) -> String) -> Self {
        let mut answer = Self::default();
        for row in rows {
            answer.add_row(row, show);
        }
        answer
    }

    pub(crate) fn add_row<R>(&mut self, row: &R, show: fn(&R) -> String) {
        self.rows_read += 1;
        if self.rows.len() < Self::ROWS_SHOWN {
            self.rows.push(show(row));
        }
    }
}

/// What becomes of a step that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Next {
    /// The transaction hears the answer.
    GoOn,
    /// The step did nothing, and is sent once more: how a database without a queue for locks is waited for.
    SendAgain,
}

/// Interceptors among the options, one behind the other: the first one hears of a step first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interceptors(Vec<Arc<dyn Interceptor>>);

impl Interceptors {
    #[cfg(feature = "testing")]
    pub(crate) fn one(interceptor: Arc<dyn Interceptor>) -> Self {
        Self(vec![interceptor])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and behind them the others.
    pub(crate) fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    pub(crate) fn want_sessions(&self) -> bool {
        self.0.iter().any(|interceptor| interceptor.wants_sessions())
    }

    /// Waits in line.
    pub(crate) async fn while_at_gate<F: Future>(&self, turn: F) -> F::Output {
        if self.is_empty() {
            return turn.await;
        }
        let tell = |waits| self.0.iter().for_each(|interceptor| interceptor.in_line(waits));
        tell(true);
        let _told = scopeguard::guard((), |()| tell(false));
        turn.await
    }

    pub(crate) fn unwatched(&self) {
        self.0.iter().for_each(|interceptor| interceptor.unwatched());
    }

    /// All of them see the step; the first fault is the one that happens.
    pub(crate) async fn before(&self, step: &Step) -> Option<Fault> {
        let mut fault = None;
        for interceptor in &self.0 {
            let planned = interceptor.before(step).await;
            fault = fault.or(planned);
        }
        fault
    }

    /// A step that is sent again has not been answered yet.
    pub(crate) async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        for interceptor in &self.0 {
            if interceptor.after(step, answer).await == Next::SendAgain {
                return Next::SendAgain;
            }
        }
        Next::GoOn
    }
}

/// The same if they are the very same ones.
impl PartialEq for Interceptors {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}
