//! Whether a worker has the connections that it needs.

use super::Worker;
use crate::error::Error;
use crate::events::JobEvent;
use crate::queue::{Finding, FindingKind, QueueBackend};

impl<DB: QueueBackend> Worker<DB> {
    /// What [`Queue::doctor`](crate::queue::Queue::doctor) finds, and whether the handlers of this worker can
    /// use up all connections of its pool.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn doctor(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = self.queue.doctor().await?;
        findings.extend(
            self.small_pool()
                .map(|connections| Finding { fault: FindingKind::Pool, message: self.starves(connections) }),
        );
        Ok(findings)
    }

    pub(super) fn report_small_pool(&self) {
        let Some(connections) = self.small_pool() else { return };
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "atomically", queue = self.queue.name(), "{}", self.starves(connections));
        self.watchers.tell(JobEvent::PoolTooSmall { handlers: self.handlers, connections });
    }

    /// How many connections the pool has at most, where that is too few.
    fn small_pool(&self) -> Option<u32> {
        let connections = self.queue.db.pool().options().get_max_connections();
        usize::try_from(connections)
            .is_ok_and(|connections| self.handlers >= connections)
            .then_some(connections)
    }

    fn starves(&self, connections: u32) -> String {
        format!(
            "the worker of the queue {:?} has {} handlers and a pool of {connections} connections: handlers that each hold \
             one leave none to extend their leases with. Give the pool at least {} connections, or the worker fewer handlers",
            self.queue.name(),
            self.handlers,
            self.handlers + 2
        )
    }
}
