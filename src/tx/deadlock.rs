//! Asking who waited for whom.

use std::time::Duration;

use tokio::time::timeout;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};

use super::Tx;

/// How long the answer is waited for. A server that does not answer loses the connection.
const ASKING_LIMIT: Duration = Duration::from_secs(1);

impl<DB: Backend> Tx<DB> {
    /// The failure that ended this transaction; a deadlock with a report of who waited for whom, where the
    /// error has none and the server tells.
    ///
    /// Must be asked before the rollback: the next transaction of this session may meet the next deadlock.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn explain(&mut self, failure: Failure) -> Failure {
        let is_told = failure.kind() != FailureKind::Deadlock || failure.deadlock().is_some();
        if is_told || self.state.lost_its_place() {
            return failure;
        }
        // It was met by this transaction, so it is no older; and the answer may be on its way for so long.
        let age = self.opened.elapsed() + ASKING_LIMIT;
        let Some(asking) = DB::deadlock_query(age) else { return failure };
        let failed = self.state.failed_statement();
        // An answer that does not come leaves the question on its way, which is the end of the connection.
        self.state.question(true);
        let connection = self.session.connection();
        let answered = timeout(ASKING_LIMIT, async {
            // Whoever may not look is refused, and that was all. A broken connection is not given back by the
            // rollback.
            let answers = DB::fetch_text(connection, asking.sql).await.ok()?;
            let (report, remember) = (asking.read)(&answers, failed.as_deref())?;
            DB::send_text(connection, remember).await;
            Some(report)
        });
        let Ok(report) = answered.await else { return failure };
        self.state.question(false);
        failure.with_deadlock(report)
    }
}
