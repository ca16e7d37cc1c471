//! Interceptors, which the test kit places between a transaction and its database.

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Weak};

use async_trait::async_trait;

use crate::failure::Failure;

/// Observes every step of a transaction, and may delay it or inject a fault.
#[async_trait]
pub(crate) trait Interceptor: Debug + Send + Sync {
    /// Returns whether steps carry the number of their server session, which costs a round trip per
    /// transaction.
    fn wants_sessions(&self) -> bool {
        false
    }

    /// Called when a unit begins to wait at the gate (`true`), and when it stops waiting (`false`).
    fn at_gate(&self, _waits: bool) {}

    /// Called before a step is sent for the first time. The step is sent when this returns. Returns the fault
    /// to inject, if any.
    async fn before(&self, step: &Step) -> Option<Fault>;

    /// Called when a unit takes the underlying connection. Statements that it runs on that connection are not
    /// intercepted.
    fn unwatched(&self) {}

    /// Called with the result of a step.
    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next;
}

/// One step of a transaction: a text that is sent to the database.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) attempt: u32,
    /// The maximum number of attempts.
    pub(crate) max_attempts: u32,
    pub(crate) transaction: TransactionToken,
    pub(crate) sql: String,
    /// The bound values as SQL literals, if they can be read.
    pub(crate) arguments: Option<Vec<String>>,
    /// The number of the server session.
    pub(crate) session: Option<i64>,
}

/// Identifies the transaction that a step belongs to.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransactionToken(Weak<()>);

impl TransactionToken {
    /// Returns the token of the transaction that owns `owner`.
    pub(crate) fn of(owner: &Arc<()>) -> Self {
        Self(Arc::downgrade(owner))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// Returns whether the transaction may still send statements.
    #[cfg(feature = "testing")]
    pub(crate) fn is_in_use(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The kind of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum StepKind {
    /// Opens the transaction.
    Begin,
    /// A statement of the unit.
    Statement,
    /// A savepoint or an advisory lock.
    Control,
    /// Commits the transaction.
    Commit,
    /// Rolls the transaction back.
    Rollback,
}

impl StepKind {
    pub(crate) const fn ends_transaction(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }
}

/// A fault that is injected instead of, or after, a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The server reports a serialization failure.
    SerializationFailure,
    /// The server reports a deadlock.
    Deadlock,
    /// The server reports a lock timeout.
    LockTimeout,
    /// The connection is lost before the step reaches the server.
    ConnectionLost,
    /// The server executes the step, and the connection is lost before its answer arrives.
    AnswerLost,
}

/// The result of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatementAnswer {
    pub(crate) failure: Option<Failure>,
    /// The number of rows that were read.
    pub(crate) rows_read: usize,
    /// The first of these rows, as text.
    pub(crate) rows: Vec<String>,
    /// The number of rows that were written, if the database reports it.
    pub(crate) rows_affected: Option<u64>,
    /// The integers that a statement of this crate returned.
    pub(crate) integers: Vec<i64>,
}

impl StatementAnswer {
    /// How many rows are shown as text. Reports need an example, not all of them.
    const MAX_ROWS_SHOWN: usize = 3;

    pub(crate) fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    pub(crate) fn read(rows: usize) -> Self {
        Self { rows_read: rows, ..Self::default() }
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
        if self.rows.len() < Self::MAX_ROWS_SHOWN {
            self.rows.push(show(row));
        }
    }
}

/// What happens after the result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Next {
    /// The transaction receives the result.
    GoOn,
    /// The step had no effect and is sent again. On a database without a lock queue, this is how to wait
    /// for a lock.
    SendAgain,
}

/// The interceptors of a run, in the order in which they are called.
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

    /// Returns these interceptors followed by `others`.
    pub(crate) fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    pub(crate) fn want_sessions(&self) -> bool {
        self.0.iter().any(|interceptor| interceptor.wants_sessions())
    }

    /// Notifies the interceptors of a wait at the gate.
    pub(crate) async fn while_at_gate<F: Future>(&self, wait: F) -> F::Output {
        if self.is_empty() {
            return wait.await;
        }
        let notify = |waits| self.0.iter().for_each(|interceptor| interceptor.at_gate(waits));
        notify(true);
        let _notify = scopeguard::guard((), |()| notify(false));
        wait.await
    }

    pub(crate) fn unwatched(&self) {
        self.0.iter().for_each(|interceptor| interceptor.unwatched());
    }

    /// Calls all interceptors and returns the first fault.
    pub(crate) async fn before(&self, step: &Step) -> Option<Fault> {
        let mut fault = None;
        for interceptor in &self.0 {
            let planned = interceptor.before(step).await;
            fault = fault.or(planned);
        }
        fault
    }

    /// Calls the interceptors until one of them sends the step again, because then the result is not final.
    pub(crate) async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        for interceptor in &self.0 {
            if interceptor.after(step, answer).await == Next::SendAgain {
                return Next::SendAgain;
            }
        }
        Next::GoOn
    }
}

/// Equal if they are the same interceptors in the same order.
impl PartialEq for Interceptors {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}
