//! Jobs on their way into the table.

use super::dialect::Dialect;
use super::job::{Due, NewJob};

/// The columns that a new job has.
pub(super) const COLUMNS: &str =
    "atomically_job (queue, priority, due_at, max_attempts, enqueued_at, unique_key, payload)";

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
                let (priority, due) = (job.priority.number(), due::<DB>(job));
                format!("('{queue}', {priority}, {due}, {}, {now}, {key}, {payload})", self.attempts(job))
            })
            .collect();
        (format!("{COLUMNS} VALUES {}", rows.join(", ")), arguments)
    }
}

/// When a job is due, as an expression.
pub(super) fn due<DB: Dialect>(job: &NewJob) -> String {
    let now = DB::NOW;
    match job.due {
        Due::After(0) => now.to_owned(),
        Due::After(delay) => format!("{now} + {delay}"),
        Due::At(time) => time.to_string(),
    }
}
