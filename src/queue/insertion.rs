//! Divides new jobs into batches, and builds the values of their INSERT.

use super::job::NewJob;
use crate::backend::Backend;
use crate::schema::Schema;

/// The table, with the columns that are inserted.
pub(super) const COLUMNS: &str = "atomically_job (queue, priority, due_at, max_attempts, enqueued_at, \
                                  unique_key, unique_until_claimed, payload)";

/// The maximum number of rows of one INSERT. A row has at most six arguments, and SQLite accepts 32 766.
const MAX_ROWS: usize = 1_000;

/// The maximum size of one INSERT of several rows, in bytes. MySQL and MariaDB close the connection on a
/// statement larger than `max_allowed_packet`, which is 16 MiB by default and 1 MiB on servers configured to
/// be small.
const MAX_BYTES: usize = 900_000;

/// The approximate size of a row without its texts.
const BYTES_PER_ROW: usize = 128;

/// Divides jobs into one batch per statement, in the order in which they are to be inserted.
///
/// Two transactions that insert the same unique keys in different orders deadlock, so the jobs are sorted by
/// unique keys. The sort is stable: of several jobs with the same key, the first stays the first. Ordered and
/// limited jobs have batches of their own and are not sorted: their order matters, and their keys are locked
/// before the first of them is inserted.
pub(super) fn batches(jobs: &[NewJob]) -> Vec<Vec<&NewJob>> {
    let (keyed, mut others): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.key.is_some());
    others.sort_by(|one, other| one.unique_key.cmp(&other.unique_key));
    let mut batches = batches_of(others);
    batches.extend(batches_of(keyed));
    batches
}

fn batches_of(jobs: Vec<&NewJob>) -> Vec<Vec<&NewJob>> {
    let (mut batches, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
    for job in jobs {
        let bytes = bytes(job);
        if batch.len() == MAX_ROWS || (!batch.is_empty() && size + bytes > MAX_BYTES) {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        batch.push(job);
        size += bytes;
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn bytes(job: &NewJob) -> usize {
    let key = job.key.as_ref().map_or(0, |key| key.name.len());
    job.payload.len() + job.unique_key.as_ref().map_or(0, String::len) + key + BYTES_PER_ROW
}

/// The jobs of one INSERT.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewRows<'a> {
    pub(super) queue: &'a str,
    /// The names of the tables.
    pub(super) schema: Schema,
    /// The queue's default, for jobs without a limit of their own.
    pub(super) max_attempts: u32,
    /// Whether connections keep the statement prepared. `None`: only those that keep other statements.
    pub(super) persistent: Option<bool>,
    pub(super) jobs: &'a [&'a NewJob],
}

impl NewRows<'_> {
    /// Returns the approximate size of the statement.
    pub(super) fn bytes(&self) -> usize {
        self.jobs.iter().map(|job| bytes(job)).sum()
    }

    /// Whether the jobs are ordered or limited: either all are, or none.
    pub(super) fn have_keys(&self) -> bool {
        self.jobs.iter().any(|job| job.key.is_some())
    }

    pub(super) fn attempts(&self, job: &NewJob) -> u32 {
        job.max_attempts.unwrap_or(self.max_attempts).clamp(1, i32::MAX as u32)
    }

    /// Returns the text that follows `INSERT INTO`, and its arguments.
    pub(super) fn values<DB: Backend>(&self, now: &str) -> (String, Vec<Option<String>>) {
        if self.have_keys() {
            return self.keyed_values::<DB>(now);
        }
        let queue = self.queue;
        let mut arguments = Vec::with_capacity(self.jobs.len() * 2);
        let rows: Vec<_> = self
            .jobs
            .iter()
            .map(|job| {
                arguments.extend([job.unique_key.clone(), Some(job.payload.clone())]);
                let (key, payload) = (DB::placeholder(arguments.len() - 1), DB::placeholder(arguments.len()));
                let (priority, due) = (job.priority.number(), job.due.sql(now));
                let (attempts, until_claimed) = (self.attempts(job), job.unique_until_claimed);
                format!(
                    "('{queue}', {priority}, {due}, {attempts}, {now}, {key}, {until_claimed}, {payload})"
                )
            })
            .collect();
        (format!("{COLUMNS} VALUES {}", rows.join(", ")), arguments)
    }

    /// The same for jobs with keys. They wait until they are given a slot; those of a limited key that are
    /// due later do so when they are claimed.
    fn keyed_values<DB: Backend>(&self, now: &str) -> (String, Vec<Option<String>>) {
        let queue = self.queue;
        let mut arguments = Vec::with_capacity(self.jobs.len() * 3);
        let keyed = self.jobs.iter().filter_map(|job| Some((job, job.key.as_ref()?)));
        let rows: Vec<_> = keyed
            .map(|(job, new_key)| {
                arguments.extend([
                    job.unique_key.clone(),
                    Some(job.payload.clone()),
                    Some(new_key.name.clone()),
                ]);
                let [unique, payload, name] =
                    [2, 1, 0].map(|before_last| DB::placeholder(arguments.len() - before_last));
                let (key, due) = (new_key.in_queue(queue), job.due.sql(now));
                let (id, limit, until_claimed) = (key.id, key.stored_limit(), job.unique_until_claimed);
                let (priority, attempts) = (job.priority.number(), self.attempts(job));
                let waits = if key.is_ordered() { "1 = 1".to_owned() } else { format!("{due} <= {now}") };
                format!(
                    "('{queue}', {priority}, CASE WHEN {waits} THEN NULL ELSE {due} END, {attempts}, {now}, \
                     {unique}, {until_claimed}, {payload}, {name}, {id}, {limit}, \
                     CASE WHEN {waits} THEN {id} END, CASE WHEN {waits} THEN {due} END)"
                )
            })
            .collect();
        let columns = COLUMNS.trim_end_matches(')');
        let values = rows.join(", ");
        (
            format!("{columns}, key_name, key_id, key_limit, waiting_key, wanted_at) VALUES {values}"),
            arguments,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(payload: usize) -> NewJob {
        NewJob::new(&"x".repeat(payload)).expect("a payload")
    }

    #[test]
    fn a_batch_is_limited_in_rows_and_in_bytes() {
        let sizes = |jobs: &[NewJob]| batches(jobs).iter().map(Vec::len).collect::<Vec<_>>();
        assert!(batches(&[]).is_empty());
        assert_eq!(sizes(&vec![job(1); 2_001]), [1_000, 1_000, 1]);
        assert_eq!(sizes(&[job(500_000), job(300_000), job(500_000), job(1)]), [2, 2]);
        assert_eq!(sizes(&[job(1), job(2_000_000), job(1)]), [1, 1, 1]);
    }

    #[test]
    fn keyed_jobs_are_sorted_by_key_and_the_others_keep_their_order() {
        let keyed = |key: &str, payload| job(payload).unique(key).expect("a key");
        let jobs = [keyed("b", 1), job(2), keyed("a", 3), keyed("b", 4), job(5)];
        let order: Vec<_> = batches(&jobs).concat().iter().map(|job| job.payload.len() - 2).collect();
        assert_eq!(order, [2, 5, 3, 1, 4]);
    }
}
