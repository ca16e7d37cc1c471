//! The statements of one attempt, as deadlock reports show them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::SqlStr;
use tokio::time::Instant;

use crate::deadlock::DeadlockUnit;

/// How many statements of an attempt are kept.
const MAX_STATEMENTS: usize = 16;

/// One attempt of a unit and the statements that it has sent.
///
/// A run replaces the log when its next attempt begins. Deadlock reports of other runs hold weak references
/// to it, so they never show the statements of a later attempt.
pub(super) struct AttemptLog {
    unit: DeadlockUnit,
    sent: Mutex<SentStatements>,
}

#[derive(Default)]
struct SentStatements {
    /// The last [`MAX_STATEMENTS`] texts, without the values in them.
    texts: Vec<SqlStr>,
    last_at: Option<Instant>,
}

impl AttemptLog {
    pub(super) fn new(unit: DeadlockUnit) -> Self {
        Self { unit, sent: Mutex::default() }
    }

    pub(super) const fn unit(&self) -> DeadlockUnit {
        self.unit
    }

    fn sent(&self) -> MutexGuard<'_, SentStatements> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, sql: &SqlStr, at: Instant) {
        let mut sent = self.sent();
        if sent.texts.len() == MAX_STATEMENTS {
            sent.texts.remove(0);
        }
        sent.texts.push(sql.clone());
        sent.last_at = Some(at);
    }

    pub(super) fn statements(&self) -> Vec<String> {
        self.sent().texts.iter().map(|sql| sql.as_str().to_owned()).collect()
    }

    pub(super) fn last_statement(&self) -> Option<SqlStr> {
        self.sent().texts.last().cloned()
    }

    /// When the last statement was sent; `None` before the first one.
    pub(super) fn last_sent_at(&self) -> Option<Instant> {
        self.sent().last_at
    }
}
