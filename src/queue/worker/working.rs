//! The loop of a worker: claims jobs, and starts handlers for them.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::completions::Completions;
use super::handler_slots::{HandlerSlot, HandlerSlots};
use super::pace::{MAX_AHEAD, Pace};
use super::supervisor::Supervisor;
use super::{BoxError, Worker};
use crate::backend::Backend;
use crate::error::Error;
use crate::queue::claim::Claim;
use crate::queue::claiming::{self, ClaimedJobs};

/// The maximum number of times that a worker yields to other tasks before it claims jobs for handlers that
/// have ended.
const MAX_YIELDS: u32 = 16;

/// How long a job that was claimed ahead waits for a handler before it is released, unless its lease is
/// short.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// A claim that is in flight.
pub(super) type ClaimInFlight<'w, DB> = BoxFuture<'w, Result<ClaimedJobs<DB>, Error>>;

/// The jobs of a worker between their claims and the ends of their handlers.
pub(super) struct WorkerJobs<'w, DB: Backend> {
    /// The claim that is in flight.
    pub(super) claim: Option<ClaimInFlight<'w, DB>>,
    /// Jobs that were claimed ahead, and wait for a handler.
    pub(super) ready: VecDeque<Claim<DB>>,
    /// The handlers, and the completions of jobs whose handlers have ended.
    pub(super) running: JoinSet<()>,
    slots: HandlerSlots,
    /// Releases jobs that have waited for too long.
    pub(super) releasing: JoinSet<()>,
    /// How many jobs the claim in flight, or the last one, was for.
    wanted: usize,
    /// Whether the last claim returned all the jobs that it was for, so that there may be more.
    is_full: bool,
    ready_since: Instant,
    pace: Pace,
    /// Whether all handlers have ended and have been measured since the last one started.
    is_measured: bool,
}

impl<DB: Backend> WorkerJobs<'_, DB> {
    fn new(handlers: usize) -> Self {
        Self {
            claim: None,
            ready: VecDeque::new(),
            running: JoinSet::new(),
            slots: HandlerSlots::new(handlers),
            releasing: JoinSet::new(),
            wanted: 0,
            is_full: false,
            ready_since: Instant::now(),
            pace: Pace::new(handlers),
            is_measured: false,
        }
    }

    /// Returns how many jobs to claim.
    fn room(&mut self, handlers: usize) -> usize {
        let ahead = if self.is_full { self.pace.measure(&self.slots) } else { 0 };
        // A claim for a few jobs costs as much as one for many. But the handlers must not run out of jobs
        // during a claim, and they end faster while the server claims nothing.
        if self.ready.len() > ahead / 4 * 3 {
            return 0;
        }
        let free = match ahead {
            0 => handlers.saturating_sub(self.running.len()),
            _ => self.slots.free(),
        };
        (free + ahead).saturating_sub(self.ready.len()).min(handlers.max(MAX_AHEAD))
    }

    /// Whether another handler may start once there is a slot for it. As many jobs may wait for their
    /// completion as are claimed ahead, so that they are completed in large batches. If completions take
    /// long, that is none, and a handler starts when the completion of another one's job has ended.
    fn may_start(&self, handlers: usize) -> bool {
        !self.ready.is_empty() && self.running.len() < handlers.saturating_add(self.pace.ahead())
    }

    /// Returns the next job, and the slot of its handler.
    fn next(&mut self, handlers: usize) -> Option<(Claim<DB>, HandlerSlot)> {
        if !self.may_start(handlers) {
            return None;
        }
        let slot = self.slots.take()?;
        self.is_measured = false;
        Some((self.ready.pop_front()?, slot))
    }

    /// Whether to measure the handlers as soon as all of them have ended, and not only when their jobs are
    /// complete: if they were fast, the next jobs can be claimed meanwhile.
    fn may_measure(&self) -> bool {
        self.is_full && !self.is_measured && self.claim.is_none() && self.ready.is_empty()
    }

    /// Returns when to release the jobs that wait for a handler.
    fn release_at(&self, lease: Duration) -> Instant {
        self.ready_since + MAX_WAIT.min(lease / 8)
    }

    /// Removes the handlers that have ended, and yields as long as others end, so that the next claim is for
    /// all of them.
    async fn reap(&mut self) {
        for _ in 0..MAX_YIELDS {
            yield_now().await;
            let before = self.running.len();
            while self.running.try_join_next().is_some() {}
            if self.running.len() == before {
                return;
            }
        }
    }
}

impl<DB: Backend> Worker<DB> {
    pub(super) async fn work<H, F>(&self, shutdown: impl Future + Send, handler: H)
    where
        H: Fn(Arc<Claim<DB>>) -> F + Send + Sync,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let mut shutdown = pin!(shutdown);
        let (stop, stopped) = watch::channel(false);
        // A batch with keys takes more steps than others, which do not wait for it.
        let [completions, keyed_completions] = [(); 2].map(|()| Completions::new(&self.queue));
        let mut jobs = WorkerJobs::new(self.handlers);
        // What the worker waits for before it claims again, unless a handler ends; `None` if nothing.
        let mut pause: Option<BoxFuture<'_, ()>> = None;
        let mut release = pin!(sleep_until(Instant::now()));
        loop {
            // After the process was suspended, these jobs may be other workers'.
            if jobs.release_at(self.queue.lease) <= Instant::now() {
                self.release_waiting(&mut jobs);
            }
            while let Some((claim, slot)) = jobs.next(self.handlers) {
                let (claim, reporter, stopped) = (Arc::new(claim), self.reporter.clone(), stopped.clone());
                let completions = if claim.key().is_some() { &keyed_completions } else { &completions };
                let (claimed, completions) = (claim.clone(), completions.clone());
                let supervisor =
                    Supervisor::new((claimed, slot), completions, reporter, stopped, self.timeout);
                // The handler's future runs in a task. A panic before it returns one fails the job too.
                match catch_unwind(AssertUnwindSafe(|| handler(claim))) {
                    Ok(work) => jobs.running.spawn(supervisor.run(work)),
                    Err(panic) => jobs.running.spawn(supervisor.fail_panicked(panic)),
                };
            }
            if jobs.claim.is_none() && pause.is_none() {
                self.claim_more(&mut jobs);
            }
            let release_at = jobs.release_at(self.queue.lease);
            if release.deadline() != release_at {
                release.as_mut().reset(release_at);
            }
            let (slots, may_start) = (jobs.slots.waiter(), jobs.may_start(self.handlers));
            let may_measure = pause.is_none() && jobs.may_measure();
            // The signal takes precedence: no handler may start after it.
            tokio::select! {
                biased;
                _ = &mut shutdown => break,
                claimed = in_flight(&mut jobs.claim), if jobs.claim.is_some() => {
                    pause = self.take_claimed(&mut jobs, claimed);
                }
                Some(_) = jobs.running.join_next() => {
                    jobs.reap().await;
                    pause = None;
                }
                () = slots.one_is_free(), if may_start => {}
                () = slots.all_are_free(), if may_measure => jobs.is_measured = true,
                () = paused(&mut pause), if pause.is_some() => pause = None,
                () = &mut release, if !jobs.ready.is_empty() => self.release_waiting(&mut jobs),
            }
        }
        self.shut_down(jobs, stop).await;
    }

    /// Starts a claim if there is room for more jobs.
    fn claim_more<'w>(&'w self, jobs: &mut WorkerJobs<'w, DB>) {
        let room = jobs.room(self.handlers);
        if room > 0 {
            jobs.wanted = room;
            jobs.claim = Some(Box::pin(claiming::claim(&self.queue, room)));
        }
    }

    /// Takes the jobs of a claim. Returns what to wait for before the next claim.
    fn take_claimed<'w>(
        &'w self,
        jobs: &mut WorkerJobs<'w, DB>,
        claimed: Result<ClaimedJobs<DB>, Error>,
    ) -> Option<BoxFuture<'w, ()>> {
        jobs.claim = None;
        let has_succeeded = claimed.is_ok();
        let claims = self.report_claimed(claimed);
        if !jobs.is_full {
            jobs.pace.restart(&jobs.slots);
        }
        jobs.is_full = claims.len() == jobs.wanted;
        let is_idle = has_succeeded && claims.is_empty();
        jobs.ready.extend(claims);
        jobs.ready_since = Instant::now();
        if jobs.is_full {
            return None;
        }
        Some(Box::pin(async move {
            let wait = self.time_to_wait(is_idle).await;
            self.wait_for_jobs(wait).await;
        }))
    }

    /// Releases the jobs that have waited for a handler for too long: all handlers are busy.
    fn release_waiting(&self, jobs: &mut WorkerJobs<'_, DB>) {
        if jobs.ready.is_empty() {
            return;
        }
        while jobs.releasing.try_join_next().is_some() {}
        jobs.releasing.spawn(self.release(std::mem::take(&mut jobs.ready).into()));
        jobs.is_full = false;
    }
}

async fn in_flight<DB: Backend>(claim: &mut Option<ClaimInFlight<'_, DB>>) -> Result<ClaimedJobs<DB>, Error> {
    match claim {
        Some(claim) => claim.await,
        None => std::future::pending().await,
    }
}

async fn paused(pause: &mut Option<BoxFuture<'_, ()>>) {
    if let Some(pause) = pause {
        pause.await;
    }
}
