//! Jobs that run in order, and jobs whose concurrency is limited.

use super::job::{NewJob, checked};
use super::key::NewJobKey;
use crate::error::Error;

impl NewJob {
    /// Makes the job run in order with the other jobs of the queue that have the same key: one at a time,
    /// each after the previous one is complete.
    ///
    /// ```
    /// use atomically::queue::NewJob;
    ///
    /// # fn main() -> Result<(), atomically::Error> {
    /// let message = NewJob::new(&("order 7", "paid"))?.in_order_of("order 7")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Which order?
    ///
    /// The order in which the transactions that enqueue the jobs commit. Such a transaction locks the key
    /// until its end, so of two transactions that enqueue jobs of one key, the second waits in
    /// [`enqueue`](super::Queue::enqueue) until the first has committed or rolled back. Jobs of one
    /// transaction run in the order in which it enqueued them. The jobs' [priorities](Self::priority) do not
    /// change the order; they decide between keys. Jobs of other keys, and jobs without one, do not wait.
    ///
    /// To hold the lock only briefly, enqueue *last*. To enqueue jobs of several keys in one transaction, use
    /// a single call of [`enqueue_many`](super::Queue::enqueue_many), which locks the keys in a fixed order.
    ///
    /// # What does the next job wait for?
    ///
    /// It waits until the job before it is complete: during all its retries and snoozes, until it is
    /// [due](Self::run_after), and while the lease of a worker that died lasts. If the job before it is
    /// rescheduled, the next one waits for that run too. If the job before it dies, the next one waits until
    /// the dead job is requeued and complete, or is discarded or purged; with
    /// [`Queue::skip_dead`](super::Queue::skip_dead) it does not wait for dead jobs.
    ///
    /// A worker that was presumed dead may still be running its handler when the next job starts. Its
    /// transaction is [fenced off](super::Claim#the-fence), so the effects stay in order.
    ///
    /// # Cost
    ///
    /// A claim does not read the keys, and takes about as long as one of jobs without a key, however many
    /// keys there are. A completion runs a few more statements, which make the next job due.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the key has more than 255 bytes or contains a NUL,
    /// or the job has a limit.
    pub fn in_order_of(self, key: impl Into<String>) -> Result<Self, Error> {
        self.with_key(key.into(), None)
    }

    /// Limits how many jobs of the queue with the same key run at the same time: a tenant's share of the
    /// workers, or the connections that another service accepts.
    ///
    /// ```
    /// use atomically::queue::NewJob;
    ///
    /// # fn main() -> Result<(), atomically::Error> {
    /// let report = NewJob::new(&7)?.at_most("tenant 7", 3)?;
    /// # Ok(()) }
    /// ```
    ///
    /// Jobs beyond the limit wait, and do not delay jobs of other keys. They start in about the order in
    /// which they were enqueued. A job that waits for another attempt, or that is due later, does not count.
    /// If jobs of one key have different limits, the limit of the last one that was enqueued applies to all.
    ///
    /// As with [`in_order_of`](Self::in_order_of), a transaction that enqueues such a job locks the key until
    /// its end, and a claim takes about as long as one of jobs without a key. The claim of a job that was
    /// scheduled for later, or that is retried, needs a second transaction. Each job counts once: a worker
    /// that was presumed dead may still run its handler beside that of the worker that has taken the job
    /// over.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the limit is 0, the key has more than 255 bytes or
    /// contains a NUL, or the job is ordered.
    pub fn at_most(self, key: impl Into<String>, limit: u32) -> Result<Self, Error> {
        if limit == 0 {
            let message = "invalid limit of 0: a job with this limit would never run, so use at least 1";
            return Err(Error::invalid_input(message.to_owned()));
        }
        self.with_key(key.into(), Some(limit.min(i32::MAX as u32)))
    }

    fn with_key(self, key: String, limit: Option<u32>) -> Result<Self, Error> {
        if self.key.as_ref().is_some_and(|key| key.limit.is_some() != limit.is_some()) {
            let message = "a job cannot be both ordered and limited: call either in_order_of or at_most";
            return Err(Error::invalid_input(message.to_owned()));
        }
        let name = checked(if limit.is_some() { "limit" } else { "order" }, key)?;
        Ok(Self { key: Some(NewJobKey { name, limit }), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_either_ordered_or_limited() {
        let job = || NewJob::new(&()).expect("a payload");
        assert!(job().in_order_of("a").and_then(|job| job.at_most("a", 2)).is_err());
        assert!(job().at_most("a", 2).and_then(|job| job.in_order_of("a")).is_err());
        assert!(job().at_most("a", 0).is_err());
        let error = job().in_order_of("k".repeat(256)).expect_err("too long");
        assert!(error.to_string().contains("invalid order key"), "{error}");
        let both = job().in_order_of("a").and_then(|job| job.in_order_of("b")).expect("the last one applies");
        assert_eq!(both.key.expect("a key").name, "b");
    }
}
