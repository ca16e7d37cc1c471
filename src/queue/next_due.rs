//! When the next job is due.

use std::time::Duration;

use super::Queue;
use super::priority::Priority;
use super::sql::QueueSql;
use crate::backend::Backend;
use crate::error::Error;

impl<DB: Backend> Queue<DB> {
    /// Returns the time until the next scheduled job is due or the first lease expires; `None` if there is
    /// neither. The database computes it, so it does not depend on this machine's clock.
    pub(super) async fn until_next_due(&self) -> Result<Option<Duration>, Error> {
        let (name, QueueSql { now, index_hint, .. }) = (&self.name, QueueSql::of::<DB>());
        let waits = Priority::ALL.map(|priority| {
            format!(
                "COALESCE((SELECT due_at - {now} FROM atomically_job {index_hint} \
                 WHERE queue = '{name}' AND priority = {} AND due_at > {now} \
                 ORDER BY due_at, id LIMIT 1), -1)",
                priority.number()
            )
        });
        let waits = self.read_integers(format!("SELECT {}", waits.join(", "))).await?;
        let next = waits.into_iter().filter_map(|wait| u64::try_from(wait).ok()).min();
        Ok(next.map(Duration::from_micros))
    }
}
