//! How much there is to do, asked for every few seconds.

use std::time::Duration;

use super::priority::Priority;
use super::sql::no_lease;
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
    /// For how long the oldest of them could have been, of whatever priority; zero where there is none.
    pub oldest: Duration,
    /// The same for each priority: high, normal, low. A low one may wait for as long as there are others.
    pub oldest_by_priority: [Duration; 3],
    /// How many are dead.
    pub dead: u64,
}

impl<DB: QueueBackend> Queue<DB> {
    /// How many jobs could be claimed, for how long the oldest of them could have been, and how many are
    /// dead: for a figure every few seconds. A [`Worker`](super::Worker) that is observed tells it by itself.
    ///
    /// Unlike [`counts`](Self::counts) it reads indexes only, and of those only what is due or dead. It
    /// counts no further than 100 000 of each priority, and of the dead: of a queue that is so far behind the
    /// age is what there is to know.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn depth(&self) -> Result<Depth, Error> {
        let (now, name, no_lease) = (DB::NOW, &self.name, no_lease::<DB>());
        let dead = format!(
            "SELECT 1 FROM atomically_job WHERE queue = '{name}' AND died_at IS NOT NULL LIMIT {MOST}"
        );
        // Few jobs have a lease that was prolonged. Taking them off spares a look at the row of every other
        // one.
        let prolonged = format!(
            "FROM atomically_job_lease AS lease JOIN atomically_job AS job ON job.id = job_id AND job.token = lease.token \
             WHERE until > {now} AND queue = '{name}' AND due_at <= {now}"
        );
        let mut figures = vec![
            format!("(SELECT COUNT(*) FROM ({dead}) AS dead)"),
            format!("(SELECT COUNT(*) {prolonged})"),
        ];
        for priority in Priority::ALL {
            let due = format!(
                "FROM atomically_job {} WHERE queue = '{name}' AND priority = {} AND due_at <= {now}",
                DB::HINT,
                priority.number()
            );
            let oldest = format!("SELECT due_at {due} AND {no_lease} ORDER BY due_at, id LIMIT 1");
            figures.push(format!("(SELECT COUNT(*) FROM (SELECT 1 {due} LIMIT {MOST}) AS due)"));
            figures.push(format!("COALESCE({now} - ({oldest}), 0)"));
        }
        let sql = format!("SELECT {}", figures.join(", "));
        let db = self.db.with(Options::new().read_only());
        let figures =
            db.run(async |tx| Ok::<_, Error>(DB::fetch_integers(tx, sql, Vec::new()).await?)).await?;
        let mut figures = figures.into_iter().map(i64::unsigned_abs);
        let (dead, prolonged) = (figures.next().unwrap_or_default(), figures.next().unwrap_or_default());
        let (mut due, mut oldest_by_priority) = (0, [Duration::ZERO; Priority::ALL.len()]);
        for oldest in &mut oldest_by_priority {
            due += figures.next().unwrap_or_default();
            *oldest = Duration::from_micros(figures.next().unwrap_or_default());
        }
        let oldest = oldest_by_priority.into_iter().max().unwrap_or_default();
        Ok(Depth { ready: due.saturating_sub(prolonged), oldest, oldest_by_priority, dead })
    }
}
