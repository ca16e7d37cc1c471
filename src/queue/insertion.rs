//! Jobs on their way into the table.

use super::dialect::Dialect;
use super::job::NewJob;

/// The columns that a new job has.
pub(super) const COLUMNS: &str = "atomically_job (queue, priority, due_at, max_attempts, enqueued_at, unique_key, unique_until_claimed, payload)";

/// Jobs for a queue.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct NewRows<'a> {
    pub(super) queue: &'a str,
    pub(super) max_attempts: u32,
    pub(super) jobs: &'a [NewJob],
}

impl NewRows<'_> {
    pub(super) fn attempts(&self, job: &NewJob) -> u32 {
        job.max_attempts.unwrap_or(self.max_attempts).clamp(1, i32::MAX as u32)
    }

    /// What comes behind `INSERT INTO`, with its arguments.
    pub(super) fn values<DB: Dialect>(&self) -> (String, Vec<Option<String>>) {
        let (queue, now) = (self.queue, DB::NOW);
        let mut arguments = Vec::with_capacity(self.jobs.len() * 2);
        let rows: Vec<_> = self
            .jobs
            .iter()
            .map(|job| {
                arguments.extend([job.unique_key.clone(), Some(job.payload.clone())]);
                let (key, payload) = (DB::placeholder(arguments.len() - 1), DB::placeholder(arguments.len()));
                let (priority, due) = (job.priority.number(), job.due.text::<DB>());
                let (attempts, until_claimed) = (self.attempts(job), job.unique_until_claimed);
                format!(
                    "('{queue}', {priority}, {due}, {attempts}, {now}, {key}, {until_claimed}, {payload})"
                )
            })
            .collect();
        (format!("{COLUMNS} VALUES {}", rows.join(", ")), arguments)
    }
}
