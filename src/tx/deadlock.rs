//! Adds deadlock reports to failures.

use std::time::Duration;

use tokio::time::timeout;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};

use super::Tx;

/// How long the server may take to report a deadlock. After that the connection is closed.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

impl<DB: Backend> Tx<DB> {
    /// Adds a report of the transactions involved to a deadlock, if the error has none and the server keeps
    /// one. Returns other failures as they are.
    ///
    /// Must be called before the rollback: the next transaction of this session may run into the next
    /// deadlock.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn explain(&mut self, failure: Failure) -> Failure {
        let is_complete = failure.kind() != FailureKind::Deadlock || failure.deadlock().is_some();
        if is_complete || self.state.session_is_unusable() {
            return failure;
        }
        // The deadlock ended this transaction, so it is no older than the transaction. The query may take as
        // long as the limit.
        let age = self.opened.elapsed() + REPORT_LIMIT;
        let Some(query) = DB::deadlock_query(age) else { return failure };
        let failed = self.state.failed_statement();
        // Without a response the query stays in flight, which closes the connection.
        self.state.set_in_flight(true);
        let connection = self.session.connection();
        let answered = timeout(REPORT_LIMIT, async {
            // Without the privilege to read the report, there is none. A broken connection is noticed by the
            // rollback.
            let answers = DB::fetch_text(connection, query.sql).await.ok()?;
            let (report, remember) = (query.read)(&answers, failed.as_deref())?;
            DB::send_text(connection, remember).await;
            Some(report)
        });
        let Ok(report) = answered.await else { return failure };
        self.state.set_in_flight(false);
        failure.with_deadlock(report)
    }
}
