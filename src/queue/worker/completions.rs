//! Completes the jobs of handlers that end at the same time in one transaction.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::queue::Queue;
use crate::queue::claim::{Claim, OpenCompletion};
use crate::queue::completing::complete_held;

/// The maximum number of jobs in a batch, which limits its statement.
const MAX_JOBS: usize = 1_000;

/// The maximum number of times that a batch yields to other tasks before it is sent, so that an endless
/// stream of completions does not delay it.
const MAX_YIELDS: u32 = 16;

/// The time after which a batch counts as slow, so that another one may start.
const SLOW: Duration = Duration::from_millis(5);

/// The maximum number of batches that run at the same time.
const MAX_BATCHES: usize = 8;

/// The completions of a worker: those of jobs with keys, or those of the others.
///
/// While one batch is being committed, the jobs whose handlers end are collected for the next one. A job that
/// ends alone is completed immediately. The task of one of the handlers runs the batch, and passes this role
/// on to another one.
///
/// A batch completes the jobs that their claims hold. If it fails, or if it does not complete a job, the job
/// is completed on its own: so a claim that is stale, a row that is locked and a row that the database
/// refuses to delete do not affect the other jobs.
pub(super) struct Completions<DB: Backend> {
    queue: Queue<DB>,
    pending: Mutex<WaitingJobs<DB>>,
}

/// The jobs that no batch has taken, and the count of batches that run.
struct WaitingJobs<DB: Backend> {
    waiting: VecDeque<WaitingJob<DB>>,
    running: usize,
    /// How many of the running batches are slow.
    slow: usize,
}

/// A job that waits to be completed, and the channel to its handler's task.
struct WaitingJob<DB: Backend> {
    claim: Arc<Claim<DB>>,
    sender: oneshot::Sender<Turn<DB>>,
}

/// What the task of a handler does about its completion.
enum Turn<DB: Backend> {
    /// Nothing: the job is complete.
    Completed,
    /// It completes the job on its own, after a batch with this unknown outcome, if there was one.
    Alone(Option<Error>),
    /// It runs the next batch.
    Lead(RunningBatch<DB>),
}

impl<DB: Backend> Completions<DB> {
    pub(super) fn new(queue: &Queue<DB>) -> Arc<Self> {
        let pending = WaitingJobs { waiting: VecDeque::new(), running: 0, slow: 0 };
        Arc::new(Self { queue: queue.clone(), pending: Mutex::new(pending) })
    }

    /// Completes the job, with those of other handlers.
    pub(super) async fn complete(self: &Arc<Self>, claim: &Arc<Claim<DB>>) -> Result<(), Error> {
        let turn = match self.join(claim) {
            Ok(batch) => Turn::Lead(batch),
            Err(receiver) => receiver.await.unwrap_or_else(|_| Turn::Alone(Some(dropped()))),
        };
        match turn {
            Turn::Completed => Ok(()),
            Turn::Alone(unknown) => claim.complete_after(unknown).await,
            Turn::Lead(batch) => batch.run(claim).await,
        }
    }

    /// Starts a batch if none runs, and otherwise waits for the next one.
    fn join(
        self: &Arc<Self>,
        claim: &Arc<Claim<DB>>,
    ) -> Result<RunningBatch<DB>, oneshot::Receiver<Turn<DB>>> {
        let mut pending = self.pending();
        if pending.may_start() {
            pending.running += 1;
            return Ok(RunningBatch { completions: self.clone(), is_slow: false, is_over: false });
        }
        let (sender, receiver) = oneshot::channel();
        pending.waiting.push_back(WaitingJob { claim: claim.clone(), sender });
        Err(receiver)
    }

    /// Lets waiting tasks run batches, as many as may run.
    fn start_batches(self: &Arc<Self>) {
        loop {
            let mut pending = self.pending();
            let next = if pending.may_start() { pending.waiting.pop_front() } else { None };
            let Some(WaitingJob { sender, .. }) = next else { return };
            pending.running += 1;
            drop(pending);
            let batch = RunningBatch { completions: self.clone(), is_slow: false, is_over: false };
            // The task was cancelled.
            if let Err(Turn::Lead(mut batch)) = sender.send(Turn::Lead(batch)) {
                batch.leave();
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, WaitingJobs<DB>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<DB: Backend> WaitingJobs<DB> {
    /// Whether another batch may start: only if all others are slow, because two batches of half the size
    /// take two commits.
    fn may_start(&self) -> bool {
        self.running < MAX_BATCHES && self.slow == self.running
    }
}

/// A batch that counts as running until this value is dropped.
struct RunningBatch<DB: Backend> {
    completions: Arc<Completions<DB>>,
    is_slow: bool,
    is_over: bool,
}

impl<DB: Backend> RunningBatch<DB> {
    /// Completes the caller's job and those that wait.
    async fn run(mut self, own: &Arc<Claim<DB>>) -> Result<(), Error> {
        self.gather().await;
        let others = self.take_waiting();
        if others.is_empty() {
            return self.run_alone(own).await;
        }
        let completions = self.completions.clone();
        let mut batch = pin!(complete_all(&completions.queue, own, others));
        let completed = match timeout(SLOW, &mut batch).await {
            Ok(completed) => completed,
            Err(_) => {
                self.mark_slow();
                batch.await
            }
        };
        let Err(unknown) = completed else { return Ok(()) };
        // The next batch does not wait for a job that is completed on its own.
        drop(self);
        own.complete_after(unknown).await
    }

    /// Completes the caller's job on its own. Once that is slow, it no longer counts as a batch, because it
    /// may wait for a lock until the lease expires.
    async fn run_alone(self, own: &Claim<DB>) -> Result<(), Error> {
        let mut completing = pin!(own.complete());
        if let Ok(completed) = timeout(SLOW, &mut completing).await {
            return completed;
        }
        drop(self);
        completing.await
    }

    /// Yields as long as other handlers end.
    async fn gather(&self) {
        let mut waiting = 0;
        for _ in 0..MAX_YIELDS {
            yield_now().await;
            let before = std::mem::replace(&mut waiting, self.completions.pending().waiting.len());
            if waiting <= before {
                return;
            }
        }
    }

    fn take_waiting(&self) -> Vec<WaitingJob<DB>> {
        let mut pending = self.completions.pending();
        let count = pending.waiting.len().min(MAX_JOBS - 1);
        pending.waiting.drain(..count).collect()
    }

    fn mark_slow(&mut self) {
        self.is_slow = true;
        self.completions.pending().slow += 1;
        self.completions.start_batches();
    }

    /// Ends the batch without starting another one.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            let mut pending = self.completions.pending();
            pending.running -= 1;
            pending.slow -= usize::from(self.is_slow);
        }
    }
}

impl<DB: Backend> Drop for RunningBatch<DB> {
    fn drop(&mut self) {
        if !self.is_over {
            self.leave();
            self.completions.start_batches();
        }
    }
}

/// Completes the jobs of a batch, and tells the other tasks what became of theirs. Returns an error if the
/// caller's own job is not complete: the unknown outcome of the batch, if there is one.
async fn complete_all<DB: Backend>(
    queue: &Queue<DB>,
    own: &Arc<Claim<DB>>,
    others: Vec<WaitingJob<DB>>,
) -> Result<(), Option<Error>> {
    let claims: Vec<_> =
        [own].into_iter().chain(others.iter().map(|waiting| &waiting.claim)).cloned().collect();
    let completions: Vec<_> = claims.iter().map(|claim| claim.progress().begin_completion()).collect();
    let completed = complete_held(queue, &claims).await;
    let turn = |claim: &Claim<DB>, completion: &OpenCompletion| match &completed {
        Ok(ids) if ids.contains(&claim.id()) => {
            completion.committed();
            Ok(())
        }
        Ok(_) => Err(None),
        Err(error) => Err(error.is_commit_unknown().then(|| error.duplicate())),
    };
    let mut turns = claims.iter().zip(&completions).map(|(claim, completion)| turn(claim, completion));
    let own = turns.next().unwrap_or(Err(None));
    for (waiting, turn) in others.into_iter().zip(turns) {
        let _ = waiting.sender.send(turn.map_or_else(Turn::Alone, |()| Turn::Completed));
    }
    own
}

/// The error of a job whose batch was dropped.
fn dropped() -> Error {
    let message = "the task that completed the job together with others was dropped";
    Error::failed(Failure::new(FailureKind::CommitUnknown, message), None)
}
