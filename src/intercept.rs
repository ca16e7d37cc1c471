//! What may stand between transactions and their database, a step at a time: the test kit does.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::failure::Failure;

/// Sees everything that is asked of a database, and may hold it back or put a fault in its place.
#[async_trait]
pub(crate) trait Interceptor: Debug + Send + Sync {
    /// Whether steps are to say which of the server's sessions they run in; that costs a round trip per transaction.
    fn wants_sessions(&self) -> bool {
        false
    }

    /// Called before a step is sent for the first time, which waits for the answer. `Some` is what happens instead.
    async fn before(&self, step: &Step) -> Option<Fault>;

    /// Called with what a step was answered.
    async fn after(&self, step: &Step, answer: &Answer) -> Next;
}

/// Something that is asked of a database.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) attempt: u32,
    pub(crate) sql: String,
    /// The values that are bound, as SQL would spell them, where they can be read.
    pub(crate) arguments: Option<Vec<String>>,
    /// The server's name for the session.
    pub(crate) session: Option<i64>,
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
pub(crate) struct Answer {
    pub(crate) failure: Option<Failure>,
    /// How many rows were read.
    pub(crate) rows_read: usize,
    /// The first of them, as text.
    pub(crate) rows: Vec<String>,
    /// How many rows were written, where the database says so.
    pub(crate) rows_affected: Option<u64>,
}

impl Answer {
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

/// An interceptor among the options, the same as another one if it is that very one.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<dyn Interceptor>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
