//! The time that a run has, and what it goes into.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::Spent;
use crate::strategy::just_below;
use crate::telemetry::RunClock;

/// The time that a run has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

impl Clock {
    fn start(limit: Duration) -> Self {
        let started = Instant::now();
        // A deadline beyond what the clock can tell is none that anybody will see pass.
        let deadline =
            started.checked_add(limit).unwrap_or_else(|| started + Duration::from_secs(60 * 60 * 24 * 365));
        Self { started, deadline }
    }

    pub(super) fn spent(self, attempts: u32) -> Spent {
        Spent { attempts, elapsed: self.started.elapsed() }
    }

    /// What the server is told: a little less than what is left, so that its answer, which leaves the
    /// connection usable, comes before the client gives up.
    pub(super) fn server_limit(self) -> Duration {
        just_below(self.deadline.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// The clock, and the alarm that it sets: one for the whole run. Setting one at every wait wakes the runtime
/// up each time.
pub(super) struct Timer {
    pub(super) clock: Clock,
    alarm: Pin<Box<Sleep>>,
    /// What the time goes into, if anybody wants to know.
    pub(super) observation: Option<Arc<RunClock>>,
}

impl Timer {
    pub(super) fn start(limit: Duration, observation: Option<Arc<RunClock>>) -> Self {
        let clock = Clock::start(limit);
        Self { clock, alarm: Box::pin(sleep_until(clock.deadline)), observation }
    }

    /// Says what happens to those who watch.
    pub(super) fn tell(&self, what: impl FnOnce(&RunClock)) {
        if let Some(observation) = &self.observation {
            what(observation);
        }
    }

    /// Waits for a turn at the gate until the deadline.
    pub(super) async fn at_gate<F: Future>(&mut self, turn: F) -> Option<F::Output> {
        match self.observation.clone() {
            None => self.within(pin!(turn)).await,
            Some(observation) => self.within(pin!(observation.at_gate(turn))).await,
        }
    }

    /// Waits for a future until the deadline.
    ///
    /// The future is pinned by the caller: moved in here, it would take its room twice in the future of every
    /// run.
    pub(super) async fn within<F: Future + Unpin>(&mut self, mut future: F) -> Option<F::Output> {
        poll_fn(|context| match Pin::new(&mut future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.alarm.as_mut().poll(context).map(|()| None),
        })
        .await
    }
}
