//! The depth of a queue, for monitoring.

use std::time::Duration;

use super::Queue;
use super::priority::Priority;
use super::sql::QueueSql;
use crate::backend::Backend;
use crate::error::Error;

/// The maximum number of jobs that are counted, for each priority and for dead jobs.
const MAX_COUNT: u64 = 100_000;

/// The number of claimable and dead jobs, and the age of the oldest: what [`Queue::depth`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Depth {
    /// The number of jobs that can be claimed now.
    pub ready: u64,
    /// The age of the oldest claimable job of any priority: the time since it was due. Zero if there is none.
    pub oldest: Duration,
    /// The same for each priority: high, normal, low. Jobs of low priority may wait for as long as there are
    /// others.
    pub oldest_by_priority: [Duration; 3],
    /// The number of dead jobs.
    pub dead: u64,
}

impl<DB: Backend> Queue<DB> {
    /// Returns the number of claimable jobs, the age of the oldest, and the number of dead jobs. It is cheap
    /// enough to call every few seconds; an observed [`Worker`](super::Worker) reports it by itself.
    ///
    /// Unlike [`counts`](Self::counts), this reads only indexes, and only their entries for due and dead
    /// jobs. It counts at most 100 000 jobs of each priority, and as many dead ones: for a queue that is so
    /// far behind, the age is what matters.
    ///
    /// # Errors
    ///
    /// Returns the database's error.
    pub async fn depth(&self) -> Result<Depth, Error> {
        let sql = QueueSql::of::<DB>();
        let (QueueSql { now, index_hint, .. }, name) = (sql, &self.name);
        let dead = format!(
            "SELECT 1 FROM atomically_job WHERE queue = '{name}' AND died_at IS NOT NULL LIMIT {MAX_COUNT}"
        );
        // Few jobs have an extended lease. Counting and subtracting them avoids reading the row of every due
        // job.
        let extended = format!(
            "FROM atomically_job_lease AS lease \
             JOIN atomically_job AS job ON job.id = job_id AND job.token = lease.token \
             WHERE until > {now} AND queue = '{name}' AND due_at <= {now}"
        );
        let mut figures =
            vec![format!("(SELECT COUNT(*) FROM ({dead}) AS dead)"), format!("(SELECT COUNT(*) {extended})")];
        for priority in Priority::ALL {
            let due = format!(
                "FROM atomically_job {index_hint} \
                 WHERE queue = '{name}' AND priority = {} AND due_at <= {now}",
                priority.number()
            );
            let oldest = format!("SELECT due_at {due} AND {} ORDER BY due_at, id LIMIT 1", sql.no_lease());
            figures.push(format!("(SELECT COUNT(*) FROM (SELECT 1 {due} LIMIT {MAX_COUNT}) AS due)"));
            figures.push(format!("COALESCE({now} - ({oldest}), 0)"));
        }
        let figures = self.read_integers(format!("SELECT {}", figures.join(", "))).await?;
        let mut figures = figures.into_iter().map(i64::unsigned_abs);
        let (dead, extended) = (figures.next().unwrap_or_default(), figures.next().unwrap_or_default());
        let (mut due, mut oldest_by_priority) = (0, [Duration::ZERO; Priority::ALL.len()]);
        for oldest in &mut oldest_by_priority {
            due += figures.next().unwrap_or_default();
            *oldest = Duration::from_micros(figures.next().unwrap_or_default());
        }
        let oldest = oldest_by_priority.into_iter().max().unwrap_or_default();
        Ok(Depth { ready: due.saturating_sub(extended), oldest, oldest_by_priority, dead })
    }
}
