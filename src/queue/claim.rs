//! A claimed job, and what can become of it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Queue;
use super::job::micros;
use super::lease::Lease;
use super::resend::{EndSending, SentEnd};
use super::sql::{JobRow, QueueBackend};
use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::transactor::{Options, TransactorExt as _};

/// A job that was claimed: to be worked on, and then completed, failed or released.
///
/// # The fence
///
/// A claim has a [token](Self::token), which is the number of times that the job has changed hands.
/// Everything that is done to a claimed job checks it in the same statement. Who holds a claim that was taken
/// over, because its lease had lapsed, gets [`StaleClaim`](crate::ErrorKind::StaleClaim), and a transaction
/// that this happens in is rolled back with all its effects. The lease only says when somebody else may take
/// over; a clock that is wrong, a worker that slept, or a connection that hung makes a job late, and never
/// done twice.
///
/// That holds for effects *in the transaction that completes the job*. A mail that was sent is not rolled
/// back. Hand the token, or the id, to a service that can refuse what it has seen.
///
/// # Dropping it
///
/// Changes nothing: when its lease lapses, the job is claimed again.
#[must_use = "a claim that is dropped keeps its job from others until its lease lapses"]
pub struct Claim<DB: Backend> {
    queue: Queue<DB>,
    id: i64,
    token: i64,
    attempt: u32,
    max_attempts: u32,
    payload: String,
    last_error: Option<String>,
    progress: Arc<Progress>,
    lease: Lease,
}

/// How far a claim has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many transactions that complete it are open.
    completing: AtomicUsize,
    settled: OnceLock<Settled>,
}

/// What is known to have become of a claim.
#[derive(Debug)]
pub(super) enum Settled {
    /// It is complete, or was rescheduled.
    Completed,
    Released,
    /// With this error, and there will be another attempt.
    Failed(String),
    /// With this error, and nobody tries it any more.
    Dead(String),
}

/// A transaction that completes a claim is open for as long as this value lives.
#[derive(Debug)]
pub(super) struct Completing(Arc<Progress>);

impl Completing {
    pub(super) fn settle(&self) {
        self.0.settle(Settled::Completed);
    }
}

impl Drop for Completing {
    fn drop(&mut self) {
        self.0.completing.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Progress {
    /// Notes that a transaction that completes it is open. One that rolls back drops what is returned, and
    /// the claim is like any other again.
    pub(super) fn completes(self: &Arc<Self>) -> Completing {
        self.completing.fetch_add(1, Ordering::AcqRel);
        Completing(self.clone())
    }

    /// Whether such a transaction is open, or has committed.
    pub(super) fn is_completing(&self) -> bool {
        self.completing.load(Ordering::Acquire) > 0 || matches!(self.settled(), Some(Settled::Completed))
    }

    pub(super) fn settle(&self, settled: Settled) {
        // Whatever came first is what happened to the job.
        let _ = self.settled.set(settled);
    }

    pub(super) fn settled(&self) -> Option<&Settled> {
        self.settled.get()
    }
}

impl<DB: QueueBackend> Claim<DB> {
    /// Of a row as it was when it was found, and so before it was claimed. `asked` is when the database was
    /// asked.
    pub(super) fn of(queue: &Queue<DB>, row: JobRow, asked: Instant) -> Self {
        Self {
            queue: queue.clone(),
            id: row.id,
            token: row.token + 1,
            attempt: row.attempts.unsigned_abs() + 1,
            max_attempts: row.max_attempts.unsigned_abs(),
            payload: row.payload,
            last_error: row.last_error,
            progress: Arc::default(),
            lease: Lease::new(queue.lease, asked),
        }
    }

    /// The job's id: the same at each attempt, and never another job's.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The token: greater than that of every earlier claim of this job.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The number of this attempt, the first being 1. An attempt whose lease lapsed counts; one that was
    /// released does not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the job is tried at most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// What the attempt before this one failed with.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The payload as it is kept, in JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.payload
    }

    /// The payload.
    ///
    /// # Errors
    ///
    /// It is not what was asked for.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let payload = serde_json::from_str(&self.payload);
        Ok(payload.map_err(|error| sqlx::Error::Decode(Box::new(error)))?)
    }

    /// Extends the lease to the [queue's](Queue::lease) time from now.
    ///
    /// # Why in a table of its own?
    ///
    /// A transaction under REPEATABLE READ or SERIALIZABLE that has begun before its job's row was changed
    /// cannot change that row any more: PostgreSQL refuses. Each extension would throw away the work that it
    /// is there to protect. So the lease of a claim is in the job's row, and extended ones are beside it.
    /// Jobs that end in time never have one.
    ///
    /// # Errors
    ///
    /// [`StaleClaim`](crate::ErrorKind::StaleClaim): stop working on it. A lease that has lapsed and was not
    /// taken over is extended as any other. The database's, when it could not be reached until the lease had
    /// lapsed: until then it is asked again and again.
    pub async fn extend(&self) -> Result<(), Error> {
        let Self { id, token, .. } = self;
        let until = format!("{} + {}", DB::NOW, micros(self.queue.lease));
        let held = &format!("SELECT id FROM atomically_job WHERE id = {id} AND token = {token}");
        let extend = &format!(
            "INSERT INTO atomically_job_lease (job_id, token, until) VALUES ({id}, {token}, {until}) {}",
            DB::REPLACING_LEASE
        );
        self.resend(|EndSending { db, .. }| {
            Box::pin(async move {
                let asked = Instant::now();
                db.run(async |tx| {
                    if DB::fetch_integers(tx, held.clone(), Vec::new()).await?.is_empty() {
                        return Err(tx.stale_claim(self.stale()));
                    }
                    DB::send(tx, extend.clone(), Vec::new()).await?;
                    Ok(())
                })
                .await?;
                self.lease.extended(asked);
                Ok(SentEnd::Changed)
            })
        })
        .await
    }

    /// Whether the job, which this claim does not hold any more, was completed or rescheduled by its own
    /// handler: by a commit that went unanswered. While the lease is certain, nobody else can have done so.
    pub(super) async fn has_ended_by_itself(&self) -> bool {
        if !self.lease.is_certain() {
            return false;
        }
        // A job that was rescheduled has the next token, and is not held.
        let other = format!(
            "SELECT id FROM atomically_job WHERE id = {} AND (token <> {} OR claimed_at IS NOT NULL)",
            self.id,
            self.token + 1
        );
        let db = self.queue.db.with(Options::new().read_only());
        let found = db.run(async |tx| Ok::<_, Error>(DB::fetch_integers(tx, other, Vec::new()).await?)).await;
        found.is_ok_and(|found| found.is_empty())
    }

    /// The same claim, whose own transactions are those of another value of its queue.
    #[cfg(feature = "testing")]
    pub(super) fn held_through(self, queue: &Queue<DB>) -> Self {
        Self { queue: queue.clone(), ..self }
    }

    /// What is said when somebody else has it.
    pub(super) fn stale(&self) -> String {
        let (Self { id, token, .. }, queue) = (self, self.queue.name());
        format!("job {id} of the queue {queue:?} is not held by the claim with the token {token} any more")
    }

    /// The same as an error, where no transaction is open.
    pub(super) fn stale_error(&self) -> Error {
        Error::failed(Failure::new(FailureKind::StaleClaim, self.stale()), None)
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn queue(&self) -> &Queue<DB> {
        &self.queue
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
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
