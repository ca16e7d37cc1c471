//! How much there is to do, asked for every few seconds.

use std::time::Duration;

use super::dialect::no_lease;
use super::priority::Priority;
use super::{Queue, QueueBackend};
use crate::error::Error;
use crate::transactor::{Options, TransactorExt as _};

/// How far jobs are counted.
const MOST: u64 = 100_000;

/// How much there is to do: what [`Queue::depth`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Depth {
    /// How many jobs could be claimed now.
    pub ready: u64,
    /// For how long the oldest of them could have been; zero where there is none.
    pub oldest: Duration,
    /// How many are dead.
    pub dead: u64,
}

impl<DB: QueueBackend> Queue<DB> {
    /// How many jobs could be claimed, for how long the oldest of them could have been, and how many are dead: for a figure
    /// every few seconds. A [`Worker`](super::Worker) that is observed tells it by itself.
    ///
    /// Unlike [`counts`](Self::counts) it reads no job that is not due or dead, and only the index of those that are. It
    /// counts no further than 100 000 of each priority, and of the dead: of a queue that is so far behind the age is what
    /// there is to know.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn depth(&self) -> Result<Depth, Error> {
        let (now, name, no_lease) = (DB::NOW, &self.name, no_lease::<DB>());
        let mut figures = vec![format!(
            "(SELECT COUNT(*) FROM (SELECT 1 FROM atomically_job WHERE queue = '{name}' AND died_at IS NOT NULL \
             LIMIT {MOST}) AS dead)"
        )];
        for priority in Priority::ALL {
            let due = format!(
                "FROM atomically_job {} WHERE queue = '{name}' AND priority = {} AND due_at <= {now} AND {no_lease}",
                DB::HINT,
                priority.number()
            );
            figures.push(format!("(SELECT COUNT(*) FROM (SELECT 1 {due} LIMIT {MOST}) AS ready)"));
            figures.push(format!("COALESCE({now} - (SELECT due_at {due} ORDER BY due_at, id LIMIT 1), 0)"));
        }
        let sql = format!("SELECT {}", figures.join(", "));
        let db = self.db.with(Options::new().read_only());
        let figures =
            db.run(async |tx| Ok::<_, Error>(DB::fetch_integers(tx, sql, Vec::new()).await?)).await?;
        let mut figures = figures.into_iter().map(i64::unsigned_abs);
        let mut depth = Depth { dead: figures.next().unwrap_or_default(), ..Depth::default() };
        while let (Some(ready), Some(age)) = (figures.next(), figures.next()) {
            depth.ready += ready;
            depth.oldest = depth.oldest.max(Duration::from_micros(age));
        }
        Ok(depth)
    }
}
