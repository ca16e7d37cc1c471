//! Statements that are sent together with BEGIN or COMMIT.

use std::time::Duration;

use sqlx::SqlStr;
use tokio::time::Instant;

use super::{RunClock, StatementClock};
use crate::failure::Failure;
use crate::sql_text::MaskedStatement;

impl RunClock {
    /// Records that a statement is sent together with others.
    pub(crate) fn sends(&self, sql: &SqlStr) {
        self.settle();
        let shown = MaskedStatement::new(self.syntax, sql);
        self.state().attempt.record(&shown.sql, Instant::now());
    }

    /// Records the end of a statement that was sent together with BEGIN or COMMIT. `took` is the time of the
    /// whole round trip, which counts as one of BEGIN or COMMIT.
    pub(crate) fn sent_with(&self, sql: &SqlStr, took: Duration, failure: Option<&Failure>) {
        let shown = MaskedStatement::new(self.syntax, sql);
        let done = StatementClock { shown, idle: Duration::ZERO, took, since: None };
        self.notify_of_statement(Some(done), failure);
    }
}
