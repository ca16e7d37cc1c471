//! One handler at work: its lease is extended, and it is stopped when that is lost.

use std::any::Any;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{BoxError, Watchers};
use crate::error::Error;
use crate::events::JobEvent;
use crate::failure::with_causes;
use crate::queue::claim::Settled;
use crate::queue::{Claim, QueueBackend, Retry};

/// How long a handler that was cancelled may take to notice. One that does not is left alone: it is fenced.
const FAREWELL: Duration = Duration::from_secs(2);

/// What looks after one claimed job.
pub(super) struct Care<DB: QueueBackend> {
    claim: Arc<Claim<DB>>,
    watchers: Watchers,
    stopped: watch::Receiver<bool>,
    /// When the lease is to be extended.
    extend: Instant,
    /// How long the handler may run.
    limit: Option<Duration>,
}

/// Why a handler is to be stopped.
enum Stop {
    Lost,
    Told,
    TimedOut(Duration),
}

/// Reports the end of a handler, also when the worker is dropped.
struct Running {
    id: i64,
    watchers: Watchers,
}

impl Running {
    fn start(id: i64, watchers: &Watchers) -> Self {
        watchers.tell(JobEvent::Started { id });
        Self { id, watchers: watchers.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watchers.tell(JobEvent::Ended { id: self.id });
    }
}

impl<DB: QueueBackend> Care<DB> {
    pub(super) fn new(
        claim: Arc<Claim<DB>>,
        watchers: Watchers,
        stopped: watch::Receiver<bool>,
        limit: Option<Duration>,
    ) -> Self {
        // After a third of it.
        let extend = claim.lease().end() - claim.queue().lease / 3 * 2;
        Self { claim, watchers, stopped, extend, limit }
    }

    /// Runs the handler, in a task of its own so that a panic ends nothing else, and does what its end asks
    /// for.
    pub(super) async fn take(mut self, work: impl Future<Output = Result<(), BoxError>> + Send + 'static) {
        let _running = Running::start(self.claim.id(), &self.watchers);
        // A set of one, because it cancels when it is dropped.
        let mut handler = JoinSet::new();
        handler.spawn(work);
        let stop = tokio::select! {
            biased;
            Some(ended) = handler.join_next() => {
                self.settle(error_of(ended)).await;
                return;
            }
            stop = self.watch() => stop,
        };
        let _ = timeout(FAREWELL, handler.shutdown()).await;
        if self.tell_settled() {
            return;
        }
        let id = self.claim.id();
        match stop {
            Stop::Lost => self.watchers.tell(JobEvent::LeaseLost { id }),
            Stop::TimedOut(limit) => {
                self.settle(Some(format!("timed out: the handler ran for longer than {limit:?}"))).await;
            }
            Stop::Told => match self.claim.release().await {
                Ok(()) => self.watchers.tell(JobEvent::Released { id }),
                Err(error) => self.tell_error(&error),
            },
        }
    }

    /// Is done when the handler is to be stopped.
    async fn watch(&mut self) -> Stop {
        let (mut stopped, limit) = (self.stopped.clone(), self.limit);
        let times_out = async move {
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
            _ = stopped.wait_for(|stopped| *stopped) => Stop::Told,
            limit = times_out => Stop::TimedOut(limit),
            () = self.keep() => Stop::Lost,
        }
    }

    /// Extends the lease, and is done when that is lost.
    async fn keep(&mut self) {
        loop {
            sleep_until(self.extend).await;
            let (asked, lease) = (Instant::now(), self.claim.queue().lease);
            match timeout_at(self.claim.lease().end(), self.claim.extend()).await {
                Ok(Ok(())) => {}
                // It is gone because its own handler completes it. Nobody can take over from a commit.
                Ok(Err(error)) if error.is_stale_claim() && self.claim.progress().is_completing() => {
                    self.claim.lease().extended(asked);
                }
                Ok(Err(error)) if error.is_stale_claim() => return,
                Ok(Err(error)) => self.watchers.tell(JobEvent::Trouble { error: &error }),
                Err(_) => {}
            }
            let (now, end) = (Instant::now(), self.claim.lease().end());
            if now >= end {
                return;
            }
            self.extend = (now + lease / 3).min(end);
        }
    }

    /// Does what a handler's panic asks for that happened before there was a future to run.
    pub(super) async fn fail_panicked(self, panic: Box<dyn Any + Send>) {
        let _running = Running::start(self.claim.id(), &self.watchers);
        let error = panicked(&*panic);
        drop(panic);
        self.settle(Some(error)).await;
    }

    async fn settle(&self, error: Option<String>) {
        if self.tell_settled() {
            return;
        }
        let settled = match error {
            None => self.claim.complete().await,
            Some(error) => self.claim.fail(&error, Retry::Backoff).await.map(drop),
        };
        match settled {
            Ok(()) => drop(self.tell_settled()),
            Err(error) if error.is_stale_claim() && self.claim.has_ended_by_itself().await => {
                self.watchers.tell(JobEvent::Completed { id: self.claim.id() });
            }
            Err(error) => self.tell_error(&error),
        }
    }

    /// Tells what became of the job, if that is known: the handler may have seen to it, or it was the worker.
    fn tell_settled(&self) -> bool {
        let id = self.claim.id();
        let Some(settled) = self.claim.progress().settled() else { return false };
        self.watchers.tell(match settled {
            Settled::Completed => JobEvent::Completed { id },
            Settled::Released => JobEvent::Released { id },
            Settled::Failed(error) => JobEvent::Failed { id, error },
            Settled::Dead(error) => JobEvent::Dead { id, error },
        });
        true
    }

    fn tell_error(&self, error: &Error) {
        self.watchers.tell(if error.is_stale_claim() {
            JobEvent::LeaseLost { id: self.claim.id() }
        } else {
            JobEvent::Trouble { error }
        });
    }
}

/// What a handler failed with, if it did.
fn error_of(ended: Result<Result<(), BoxError>, JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        // Its text is the handler's code as well.
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
