//! Records the locks of the transactions of one run.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::failure::FailureKind;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind};
use crate::sql_text::Syntax;
use crate::testing::bound_sql::with_arguments;

use super::LockOrder;
use super::effect::Effect;
use super::report::{UnknownLocks, UnknownReason};
use super::sql::effects;
use super::trace::{Answered, StatementText, TracedTransaction};

/// Records the locks of the transactions of one run, one transaction after the other.
#[derive(Debug)]
pub(super) struct TraceRecorder {
    order: LockOrder,
    syntax: Syntax,
    transaction: Mutex<TracedTransaction>,
}

impl TraceRecorder {
    pub(super) fn new(order: LockOrder, syntax: Syntax) -> Self {
        Self { order, syntax, transaction: Mutex::default() }
    }

    fn transaction(&self) -> MutexGuard<'_, TracedTransaction> {
        self.transaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_transaction(&self) {
        let transaction = std::mem::take(&mut *self.transaction());
        if let Some(left) = transaction.left_behind() {
            self.add_unknown(&left.statement, UnknownReason::Session);
        }
        self.order.add(transaction.trace);
    }

    fn add_unknown(&self, statement: &StatementText, reason: UnknownReason) {
        self.order.add_unknown(UnknownLocks { statement: statement.sql.to_string(), reason });
    }

    fn record(&self, step: &Step) {
        let arguments = step.arguments.as_deref().unwrap_or_default();
        let statement = text_of(step);
        let mut transaction = self.transaction();
        transaction.begin_statement();
        for effect in effects(self.syntax, &self.order.keys(), &step.sql, arguments) {
            match effect {
                Effect::Locks(mut locking) => {
                    // Advisory locks that the crate itself acquires are released with their transaction.
                    locking.session &= step.kind == StepKind::Statement;
                    if locking.locks.iter().any(|lock| self.order.is_spelled_differently(self.syntax, lock)) {
                        self.add_unknown(&statement, UnknownReason::Name);
                    }
                    let ordered = locking.ordered;
                    if transaction.request(locking, &statement) > 1 && !ordered {
                        self.add_unknown(&statement, UnknownReason::Order);
                    }
                }
                Effect::Unlocks(which) => transaction.unlock(which.as_ref()),
                Effect::Reads(rows) => transaction.read(rows),
                Effect::Savepoint(name) => transaction.savepoint(name),
                Effect::RollbackTo(name) => transaction.roll_back_to(&name, self.syntax == Syntax::MySql),
                Effect::Unknown(reason) => self.add_unknown(&statement, reason),
            }
        }
        if step.kind == StepKind::Statement {
            transaction.mark_used();
        }
    }
}

fn text_of(step: &Step) -> StatementText {
    let sql = step.sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let with_values = with_arguments(&sql, step.arguments.as_deref().unwrap_or_default());
    StatementText { sql: sql.into(), with_values: with_values.into() }
}

fn answered(answer: &StatementAnswer) -> Answered {
    let affected = answer.rows_affected.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(0);
    let is_true = match (answer.integers.as_slice(), answer.rows.as_slice()) {
        ([integer], []) => Some(*integer == 1),
        // `pg_try_advisory_xact_lock = true`, if that is the only column.
        ([], [row]) => {
            let (_, value) = row.split_once(" = ").filter(|(_, value)| !value.contains(" = ")).unzip();
            value.map(|value| ["1", "true"].contains(&value))
        }
        _ => None,
    };
    Answered { rows: answer.rows_read.max(affected), is_true }
}

#[async_trait]
impl Interceptor for TraceRecorder {
    async fn before(&self, step: &Step) -> Option<Fault> {
        match step.kind {
            StepKind::Begin | StepKind::Commit | StepKind::Rollback => self.end_transaction(),
            // Recorded before it is sent: a statement that waits forever shows its order as well.
            StepKind::Statement | StepKind::Control => self.record(step),
        }
        None
    }

    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        match &answer.failure {
            None => {
                if self.transaction().answered(answered(answer)) {
                    self.add_unknown(&text_of(step), UnknownReason::Granted);
                }
            }
            Some(failure) if failure.kind() == FailureKind::LockNotAvailable => {
                self.transaction().refuse_statement();
            }
            Some(_) => {}
        }
        Next::GoOn
    }
}

/// A transaction whose run was dropped shows its order as well.
impl Drop for TraceRecorder {
    fn drop(&mut self) {
        self.end_transaction();
    }
}
