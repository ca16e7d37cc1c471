//! Jobs on their way into the table.

use super::job::NewJob;
use super::sql::Dialect;

/// The columns that a new job has.
pub(super) const COLUMNS: &str = "atomically_job (queue, priority, due_at, max_attempts, enqueued_at, unique_key, unique_until_claimed, payload)";

/// The most rows of one INSERT: six arguments or fewer for each, and SQLite takes no more than 32 766.
const MAX_ROWS: usize = 1_000;

/// The most bytes of one INSERT of several rows. MySQL and MariaDB close the connection on which they are
/// sent more than `max_allowed_packet`, which is 16 MiB by default and 1 MiB on servers that are meant to be
/// small.
const MAX_BYTES: usize = 900_000;

/// What a row takes beside its texts.
const BYTES_OF_A_ROW: usize = 128;

/// The jobs in the order in which they are to be inserted, in as many statements as there are parts.
///
/// Two transactions that insert the same keys in different orders wait for each other until one of them is
/// given up. So the keys are inserted in their order; of several jobs with the same key the first one stays
/// the first.
pub(super) fn parts(jobs: &[NewJob]) -> Vec<Vec<&NewJob>> {
    let mut jobs: Vec<_> = jobs.iter().collect();
    jobs.sort_by(|one, other| one.unique_key.cmp(&other.unique_key));
    let (mut parts, mut part, mut size) = (Vec::new(), Vec::new(), 0);
    for job in jobs {
        let bytes = bytes(job);
        if part.len() == MAX_ROWS || (!part.is_empty() && size + bytes > MAX_BYTES) {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        part.push(job);
        size += bytes;
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn bytes(job: &NewJob) -> usize {
    job.payload.len() + job.unique_key.as_ref().map_or(0, String::len) + BYTES_OF_A_ROW
}

/// Jobs for a queue.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct NewRows<'a> {
    pub(super) queue: &'a str,
    pub(super) max_attempts: u32,
    /// Whether connections keep the statement that inserts them; `None` for as they do with other statements.
    pub(super) persistent: Option<bool>,
    pub(super) jobs: &'a [&'a NewJob],
}

impl NewRows<'_> {
    /// About how many bytes their statement takes.
    pub(super) fn bytes(&self) -> usize {
        self.jobs.iter().map(|job| bytes(job)).sum()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(payload: usize) -> NewJob {
        NewJob::new(&"x".repeat(payload)).expect("a payload")
    }

    #[test]
    fn no_part_has_too_many_rows_or_bytes() {
        let sizes = |jobs: &[NewJob]| parts(jobs).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(parts(&[]).is_empty());
        assert_eq!(sizes(&vec![job(1); 2_001]), [1_000, 1_000, 1]);
        assert_eq!(sizes(&[job(500_000), job(300_000), job(500_000), job(1)]), [2, 2]);
        assert_eq!(sizes(&[job(1), job(2_000_000), job(1)]), [1, 1, 1]);
    }

    #[test]
    fn keys_come_in_their_order_and_jobs_without_one_stay_in_theirs() {
        let keyed = |key: &str, payload| job(payload).unique(key).expect("a key");
        let jobs = [keyed("b", 1), job(2), keyed("a", 3), keyed("b", 4), job(5)];
        let order: Vec<_> = parts(&jobs).concat().iter().map(|job| job.payload.len() - 2).collect();
        assert_eq!(order, [2, 5, 3, 1, 4]);
    }
}
