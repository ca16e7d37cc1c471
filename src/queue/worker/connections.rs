//! Whether a worker's pool has enough connections.

use super::Worker;
use crate::backend::Backend;
use crate::error::Error;
use crate::events::JobEvent;
use crate::queue::finding::{Finding, FindingKind};

impl<DB: Backend> Worker<DB> {
    /// Runs the checks of [`Queue::doctor`](crate::queue::Queue::doctor), and checks whether the handlers of
    /// this worker can use up all connections of its pool.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = self.queue.doctor().await?;
        let small_pool = self.small_pool().map(|connections| self.small_pool_message(connections));
        findings.extend(small_pool.map(|message| Finding::new(FindingKind::Pool, message)));
        Ok(findings)
    }

    pub(super) fn report_small_pool(&self) {
        let Some(connections) = self.small_pool() else { return };
        #[cfg(feature = "tracing")]
        tracing::warn!(
            target: "atomically", queue = self.queue.name(),
            "{}", self.small_pool_message(connections)
        );
        self.reporter.report(JobEvent::PoolTooSmall { handlers: self.handlers, connections });
    }

    /// Returns the maximum number of connections of the pool if it is too small.
    fn small_pool(&self) -> Option<u32> {
        let connections = self.queue.db.pool().options().get_max_connections();
        usize::try_from(connections)
            .is_ok_and(|connections| self.handlers >= connections)
            .then_some(connections)
    }

    fn small_pool_message(&self, connections: u32) -> String {
        format!(
            "the worker of the queue {:?} has {} handlers and a pool of {connections} connections: if each \
             handler holds one, none is left to extend leases. Use a pool of at least {} connections, or \
             fewer handlers",
            self.queue.name(),
            self.handlers,
            self.handlers + 2
        )
    }
}
