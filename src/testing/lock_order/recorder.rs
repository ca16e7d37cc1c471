//! What sees the statements of one run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::failure::{Failure, FailureKind};
use crate::intercept::{Answer, Fault, Interceptor, Next, Step, StepKind};
use crate::testing::shown::with_arguments;

use super::LockOrder;
use super::report::{Unclear, Unknown};
use super::sql::{Dialect, Effect, effects};
use super::trace::{Statement, Transaction};

/// Notes what the transactions of one run lock, one after the other.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) order: LockOrder,
    pub(super) dialect: Dialect,
    transaction: Mutex<Transaction>,
}

impl Recorder {
    pub(super) fn new(order: LockOrder, dialect: Dialect) -> Self {
        Self { order, dialect, transaction: Mutex::default() }
    }

    fn transaction(&self) -> MutexGuard<'_, Transaction> {
        self.transaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_transaction(&self) {
        let transaction = std::mem::take(&mut *self.transaction());
        self.order.add(transaction.trace);
    }

    fn note(&self, step: &Step) {
        let arguments = step.arguments.as_deref().unwrap_or_default();
        let sql = step.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = with_arguments(&sql, arguments);
        let statement = Statement { sql: sql.into(), shown: shown.into() };
        let unknown = |why| Unknown { statement: statement.sql.to_string(), why };
        let mut transaction = self.transaction();
        transaction.begin_statement();
        for effect in effects(self.dialect, &self.order.keys, &step.sql, arguments) {
            match effect {
                Effect::Locks { locks, strength, waits, ordered } => {
                    let locks = transaction.not_held(&locks, strength);
                    if locks.len() > 1 && !ordered {
                        self.order.add_unknown(unknown(Unclear::Order));
                    }
                    transaction.take(locks, strength, waits, ordered, &statement);
                }
                Effect::Reads(rows) => transaction.read(rows),
                Effect::Savepoint(name) => transaction.savepoint(name),
                Effect::RollbackTo(name) => {
                    transaction.undo_to(&name, self.dialect == Dialect::MySql);
                }
                Effect::Unclear(why) => self.order.add_unknown(unknown(why)),
            }
        }
        if step.kind == StepKind::Statement {
            transaction.use_it();
        }
    }
}

#[async_trait]
impl Interceptor for Recorder {
    async fn before(&self, step: &Step) -> Option<Fault> {
        match step.kind {
            StepKind::Begin | StepKind::Commit | StepKind::Rollback => self.end_transaction(),
            // Before it is sent: one that waits for ever has shown its order, too.
            StepKind::Statement | StepKind::Control => self.note(step),
        }
        None
    }

    async fn after(&self, _step: &Step, answer: &Answer) -> Next {
        let refused = |failure: &Failure| failure.kind() == FailureKind::LockNotAvailable;
        if answer.failure.as_ref().is_some_and(refused) {
            self.transaction().undo_statement();
        }
        Next::GoOn
    }
}

/// A run that is given up has shown the order of what it did.
impl Drop for Recorder {
    fn drop(&mut self) {
        self.end_transaction();
    }
}
