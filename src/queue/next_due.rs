//! When the next job is due.

use std::time::Duration;

use super::priority::Priority;
use super::{Queue, QueueBackend};
use crate::error::Error;
use crate::transactor::{Options, TransactorExt as _};

impl<DB: QueueBackend> Queue<DB> {
    /// How long it is until the next job is due that is not due yet, or until the first lease lapses; by the
    /// database's clock, so that no other clock has to agree with it.
    pub(super) async fn until_next_due(&self) -> Result<Option<Duration>, Error> {
        let (name, now, hint) = (&self.name, DB::NOW, DB::HINT);
        let waits = Priority::ALL.map(|priority| {
            format!(
                "COALESCE((SELECT due_at - {now} FROM atomically_job {hint} WHERE queue = '{name}' AND priority = {} \
                 AND due_at > {now} ORDER BY due_at, id LIMIT 1), -1)",
                priority.number()
            )
        });
        let sql = format!("SELECT {}", waits.join(", "));
        let db = self.db.with(Options::new().read_only());
        let waits = db.run(async |tx| Ok::<_, Error>(DB::fetch_integers(tx, sql, Vec::new()).await?)).await?;
        let next = waits.into_iter().filter_map(|wait| u64::try_from(wait).ok()).min();
        Ok(next.map(Duration::from_micros))
    }
}
