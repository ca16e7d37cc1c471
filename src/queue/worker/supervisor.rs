//! Supervises one handler: extends the lease of its job, and stops the handler if the lease is lost.

use std::any::Any;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::completions::Completions;
use super::handler_slots::HandlerSlot;
use super::{BoxError, Reporter};
use crate::backend::Backend;
use crate::error::Error;
use crate::events::JobEvent;
use crate::failure::with_causes;
use crate::queue::Retry;
use crate::queue::claim::{Claim, JobOutcome};

/// How long a cancelled handler may take to stop. One that does not is left running: it is fenced off.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Supervises the handler of one claimed job.
pub(super) struct Supervisor<DB: Backend> {
    claim: Arc<Claim<DB>>,
    /// The handler's slot, among those of the worker.
    slot: Option<HandlerSlot>,
    completions: Arc<Completions<DB>>,
    reporter: Arc<Reporter>,
    stopped: watch::Receiver<bool>,
    /// When to extend the lease.
    extend_at: Instant,
    /// How long the handler may run.
    timeout: Option<Duration>,
}

/// Why a handler has to stop.
enum StopReason {
    LeaseLost,
    Shutdown,
    TimedOut(Duration),
}

/// Reports the start and, when dropped, the end of a handler, so that the end is reported even if the
/// worker is dropped.
struct RunningJob {
    id: i64,
    reporter: Arc<Reporter>,
}

impl RunningJob {
    fn start(id: i64, reporter: &Arc<Reporter>) -> Self {
        reporter.report(JobEvent::Started { id });
        Self { id, reporter: reporter.clone() }
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.reporter.report(JobEvent::Ended { id: self.id });
    }
}

/// The task of a handler, which is cancelled when this value is dropped.
struct HandlerTask(JoinHandle<Result<(), BoxError>>);

impl Drop for HandlerTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<DB: Backend> Supervisor<DB> {
    pub(super) fn new(
        (claim, slot): (Arc<Claim<DB>>, HandlerSlot),
        completions: Arc<Completions<DB>>,
        reporter: Arc<Reporter>,
        stopped: watch::Receiver<bool>,
        timeout: Option<Duration>,
    ) -> Self {
        // After a third of the lease.
        let extend_at = claim.lease().end() - claim.queue().lease / 3 * 2;
        Self { claim, slot: Some(slot), completions, reporter, stopped, extend_at, timeout }
    }

    /// Runs the handler in a task of its own, which contains its panics, and then ends the claim.
    pub(super) async fn run(mut self, work: impl Future<Output = Result<(), BoxError>> + Send + 'static) {
        let _running = RunningJob::start(self.claim.id(), &self.reporter);
        let mut handler = HandlerTask(tokio::spawn(work));
        let reason = tokio::select! {
            biased;
            ended = &mut handler.0 => return self.end(ended).await,
            reason = self.stop_reason() => reason,
        };
        handler.0.abort();
        let _ = timeout(CANCEL_TIMEOUT, &mut handler.0).await;
        if self.report_outcome() {
            return;
        }
        let id = self.claim.id();
        match reason {
            StopReason::LeaseLost => self.reporter.report(JobEvent::LeaseLost { id }),
            StopReason::TimedOut(limit) => {
                self.end_claim(Some(format!("timed out: the handler ran for longer than {limit:?}"))).await;
            }
            StopReason::Shutdown => match self.claim.release().await {
                Ok(()) => self.reporter.report(JobEvent::Released { id }),
                Err(error) => self.report_error(&error),
            },
        }
    }

    /// Ends the claim of a handler that has ended.
    async fn end(&mut self, ended: Result<Result<(), BoxError>, JoinError>) {
        let error = error_of(ended);
        self.free_slot(error.is_none());
        self.end_claim(error).await;
    }

    /// Lets another handler start if this one's job will be completed together with others. Jobs that fail
    /// take a transaction each, and batches of jobs with keys hold the locks of their keys, so there are no
    /// more of them at the same time than handlers.
    fn free_slot(&mut self, has_succeeded: bool) {
        if has_succeeded && self.claim.key().is_none() {
            self.slot = None;
        }
    }

    /// Waits until the handler has to stop.
    async fn stop_reason(&mut self) -> StopReason {
        // Many handlers end before this task runs again, and need no timers.
        yield_now().await;
        let (mut stopped, limit) = (self.stopped.clone(), self.timeout);
        let timed_out = async move {
            match limit {
                Some(limit) => {
                    sleep(limit).await;
                    limit
                }
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => StopReason::Shutdown,
            limit = timed_out => StopReason::TimedOut(limit),
            () = self.extend_lease() => StopReason::LeaseLost,
        }
    }

    /// Extends the lease again and again. Returns when it is lost.
    async fn extend_lease(&mut self) {
        loop {
            sleep_until(self.extend_at).await;
            let (requested, lease) = (Instant::now(), self.claim.queue().lease);
            match timeout_at(self.claim.lease().end(), self.claim.extend()).await {
                Ok(Ok(())) => {}
                // The handler is committing the completion of the job, or has. No other worker can take the
                // job over from that transaction.
                Ok(Err(error)) if error.is_stale_claim() && self.claim.progress().is_completing() => {
                    self.claim.lease().extended(requested);
                }
                Ok(Err(error)) if error.is_stale_claim() => return,
                Ok(Err(error)) => self.reporter.report(JobEvent::Trouble { error: &error }),
                Err(_) => {}
            }
            let (now, end) = (Instant::now(), self.claim.lease().end());
            if now >= end {
                return;
            }
            self.extend_at = (now + lease / 3).min(end);
        }
    }

    /// Fails the job of a handler that panicked before it returned its future.
    pub(super) async fn fail_panicked(self, panic: Box<dyn Any + Send>) {
        let _running = RunningJob::start(self.claim.id(), &self.reporter);
        let error = panicked(&*panic);
        drop(panic);
        self.end_claim(Some(error)).await;
    }

    /// Completes or fails the job, unless the handler has ended the claim itself, and reports the outcome.
    async fn end_claim(&self, error: Option<String>) {
        if self.report_outcome() {
            return;
        }
        let ended = match error {
            None => self.completions.complete(&self.claim).await,
            Some(error) => self.claim.fail(&error, Retry::Backoff).await.map(drop),
        };
        match ended {
            Ok(()) => drop(self.report_outcome()),
            Err(error) if error.is_stale_claim() && self.claim.has_ended_by_itself().await => {
                self.reporter.report(JobEvent::Completed { id: self.claim.id() });
            }
            Err(error) => self.report_error(&error),
        }
    }

    /// Reports how the claim ended, and returns whether that is known.
    fn report_outcome(&self) -> bool {
        let id = self.claim.id();
        let Some(outcome) = self.claim.progress().outcome() else { return false };
        self.reporter.report(match outcome {
            JobOutcome::Completed => JobEvent::Completed { id },
            JobOutcome::Released => JobEvent::Released { id },
            JobOutcome::Failed(error) => JobEvent::Failed { id, error },
            JobOutcome::Dead(error) => JobEvent::Dead { id, error },
        });
        true
    }

    fn report_error(&self, error: &Error) {
        self.reporter.report(if error.is_stale_claim() {
            JobEvent::LeaseLost { id: self.claim.id() }
        } else {
            JobEvent::Trouble { error }
        });
    }
}

/// Returns the error of a handler, or the message of its panic.
fn error_of(ended: Result<Result<(), BoxError>, JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        // Formatting the error runs the caller's code, which may panic too.
        Ok(Err(error)) => match catch_unwind(AssertUnwindSafe(|| with_causes(&*error))) {
            Ok(text) => Some(text),
            Err(panic) => Some(panicked(&*panic)),
        },
        Err(error) => Some(match error.try_into_panic() {
            Ok(panic) => panicked(&*panic),
            Err(error) => error.to_string(),
        }),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("with no message"))
}
