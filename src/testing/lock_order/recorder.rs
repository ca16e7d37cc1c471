//! What sees the statements of one run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::failure::FailureKind;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind};
use crate::testing::shown::with_arguments;

use super::LockOrder;
use super::report::{Unclear, Unknown};
use super::sql::{Dialect, Effect, effects};
use super::trace::{Answered, Statement, Transaction};

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
        if let Some(left) = transaction.left_behind() {
            let (statement, why) = (left.statement.sql.to_string(), Unclear::Session);
            self.order.add_unknown(Unknown { statement, why });
        }
        self.order.add(transaction.trace);
    }

    fn note(&self, step: &Step) {
        let arguments = step.arguments.as_deref().unwrap_or_default();
        let statement = shown(step);
        let unknown = |why| self.order.add_unknown(Unknown { statement: statement.sql.to_string(), why });
        let mut transaction = self.transaction();
        transaction.begin_statement();
        for effect in effects(self.dialect, &self.order.keys(), &step.sql, arguments) {
            match effect {
                Effect::Locks(mut locking) => {
                    // The crate's own end with their transaction.
                    locking.outlives &= step.kind == StepKind::Statement;
                    if locking.locks.iter().any(|lock| self.order.is_spelled_otherwise(self.dialect, lock)) {
                        unknown(Unclear::Name);
                    }
                    let ordered = locking.ordered;
                    if transaction.take(locking, &statement) > 1 && !ordered {
                        unknown(Unclear::Order);
                    }
                }
                Effect::Unlocks(which) => transaction.unlock(which.as_ref()),
                Effect::Reads(rows) => transaction.read(rows),
                Effect::Savepoint(name) => transaction.savepoint(name),
                Effect::RollbackTo(name) => {
                    transaction.undo_to(&name, self.dialect == Dialect::MySql);
                }
                Effect::Unclear(why) => unknown(why),
            }
        }
        if step.kind == StepKind::Statement {
            transaction.use_it();
        }
    }
}

fn shown(step: &Step) -> Statement {
    let sql = step.sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = with_arguments(&sql, step.arguments.as_deref().unwrap_or_default());
    Statement { sql: sql.into(), shown: shown.into() }
}

/// What a statement was answered, where there is no doubt about it.
fn answered(answer: &StatementAnswer) -> Answered {
    let affected = answer.rows_affected.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0);
    let is_true = match (answer.integers.as_slice(), answer.rows.as_slice()) {
        ([integer], []) => Some(*integer == 1),
        // `pg_try_advisory_xact_lock = true`, if that is the only column
        ([], [row]) => {
            let (_, value) = row.split_once(" = ").filter(|(_, value)| !value.contains(" = ")).unzip();
            value.map(|value| ["1", "true"].contains(&value))
        }
        _ => None,
    };
    Answered { rows: answer.rows_read.max(affected), is_true }
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

    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        match &answer.failure {
            None => {
                if self.transaction().answered(answered(answer)) {
                    let statement = shown(step).sql.to_string();
                    self.order.add_unknown(Unknown { statement, why: Unclear::Granted });
                }
            }
            Some(failure) if failure.kind() == FailureKind::LockNotAvailable => {
                self.transaction().undo_statement();
            }
            Some(_) => {}
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
