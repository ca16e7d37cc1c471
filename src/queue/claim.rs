//! Claimed jobs.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Queue;
use super::key::JobKey;
use super::listing::payload;
use super::row::JobRow;
use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::lease_clock::LeaseClock;

/// A job that this process has claimed, to be completed, failed or released.
///
/// # The fence
///
/// A claim has a [token](Self::token), which grows each time that the job changes hands. Every statement that
/// changes a claimed job checks the token. If the lease of a claim has expired and another worker has taken
/// the job over, the earlier holder gets [`StaleClaim`](crate::ErrorKind::StaleClaim), and the transaction in
/// which that happens is rolled back with all its effects. The lease only determines when another worker may
/// take over: a wrong clock, a suspended worker or a hung connection delays a job, but never runs its effects
/// twice.
///
/// That holds for effects *in the transaction that completes the job*. An email that was sent is not rolled
/// back. Pass the token, or the id, to services that can refuse a request they have already seen.
///
/// # Dropping
///
/// Dropping a claim does not change the job: once its lease has expired, the job is claimed again.
#[must_use = "a claim that is dropped keeps its job from other workers until its lease expires"]
pub struct Claim<DB: Backend> {
    queue: Arc<Queue<DB>>,
    id: i64,
    token: i64,
    attempt: u32,
    max_attempts: u32,
    /// When the job was due before it was claimed, in microseconds since 1970.
    due_at: Option<i64>,
    payload: String,
    last_error: Option<String>,
    key: Option<JobKey>,
    progress: Arc<Progress>,
    lease: LeaseClock,
}

/// How a claim ended, as far as this process knows. The claim shares this value with the transactions that
/// complete its job.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of open transactions that complete the job.
    completing: AtomicUsize,
    outcome: OnceLock<JobOutcome>,
}

/// How a claim ended.
#[derive(Debug)]
pub(super) enum JobOutcome {
    /// The job is complete, or was rescheduled.
    Completed,
    /// The job was released or snoozed.
    Released,
    /// The job failed with this error and will be retried.
    Failed(String),
    /// The job failed with this error and is dead.
    Dead(String),
}

/// Counts a transaction that completes a job as open, until this value is dropped.
#[derive(Debug)]
pub(super) struct OpenCompletion(Arc<Progress>);

impl OpenCompletion {
    /// Records that the transaction has committed.
    pub(super) fn committed(&self) {
        self.0.record(JobOutcome::Completed);
    }
}

impl Drop for OpenCompletion {
    fn drop(&mut self) {
        self.0.completing.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Progress {
    /// Records that a transaction that completes the job is open. If it rolls back, it drops the returned
    /// value, and the claim is as it was before.
    pub(super) fn begin_completion(self: &Arc<Self>) -> OpenCompletion {
        self.completing.fetch_add(1, Ordering::AcqRel);
        OpenCompletion(self.clone())
    }

    /// Whether a transaction that completes the job is open or has committed.
    pub(super) fn is_completing(&self) -> bool {
        self.completing.load(Ordering::Acquire) > 0 || matches!(self.outcome(), Some(JobOutcome::Completed))
    }

    /// Records how the claim ended. Only the first call has an effect.
    pub(super) fn record(&self, outcome: JobOutcome) {
        let _ = self.outcome.set(outcome);
    }

    pub(super) fn outcome(&self) -> Option<&JobOutcome> {
        self.outcome.get()
    }
}

impl<DB: Backend> Claim<DB> {
    /// Creates the claim of a job; `row` is the row before it was claimed, and `requested` is when the claim
    /// was sent to the database.
    pub(super) fn new(queue: &Arc<Queue<DB>>, row: JobRow, requested: Instant) -> Self {
        Self {
            queue: queue.clone(),
            id: row.id,
            token: row.token + 1,
            attempt: row.attempts + 1,
            max_attempts: row.max_attempts,
            due_at: row.due_at,
            payload: row.payload,
            last_error: row.last_error,
            key: row.key,
            progress: Arc::default(),
            lease: LeaseClock::new(queue.lease, requested),
        }
    }

    /// Returns the id of the job: the same at each attempt, and never that of another job.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Returns the fencing token: greater than that of every earlier claim of this job.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// Returns the number of this attempt; the first is 1. An attempt whose lease expired counts; one that
    /// was released does not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the maximum number of attempts.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Returns the error of the last attempt that failed; `None` if none has failed since the job was
    /// enqueued or rescheduled.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Returns the payload as it is stored, in JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.payload
    }

    /// Deserializes the payload.
    ///
    /// # Errors
    ///
    /// [`Decode`](crate::ErrorKind::Decode): the stored JSON cannot be deserialized as a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        payload(&self.payload)
    }

    /// Replaces the queue whose transactor runs the claim's own transactions.
    #[cfg(feature = "testing")]
    pub(super) fn with_queue(self, queue: &Queue<DB>) -> Self {
        Self { queue: Arc::new(queue.clone()), ..self }
    }

    /// Returns the message of the error that this claim is stale.
    pub(super) fn stale(&self) -> String {
        stale(self.queue.name(), self.id, self.token)
    }

    /// Returns the error of a stale claim, for use where no transaction is open.
    pub(super) fn stale_error(&self) -> Error {
        Error::failed(Failure::new(FailureKind::StaleClaim, self.stale()), None)
    }

    pub(super) fn due_at(&self) -> Option<i64> {
        self.due_at
    }

    pub(super) fn lease(&self) -> &LeaseClock {
        &self.lease
    }

    /// Returns the key of an ordered or limited job. The job has a slot of it.
    pub(super) fn key(&self) -> Option<JobKey> {
        self.key
    }

    pub(super) fn queue(&self) -> &Queue<DB> {
        &self.queue
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

/// The message of a stale claim.
pub(super) fn stale(queue: &str, id: i64, token: i64) -> String {
    format!(
        "the claim of job {id} of the queue {queue:?} with token {token} is stale: \
         the job was taken over, or has ended"
    )
}

impl<DB: Backend> fmt::Debug for Claim<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
