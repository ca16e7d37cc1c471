//! The deadline of a run, and the waits that it limits.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::Spent;
use crate::strategy::just_below;
use crate::telemetry::RunClock;
use crate::transactor::options::Options;
use crate::tx::{Hooks, Shield, TxEnd};

/// The time limit of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

impl Clock {
    fn start(options: &Options) -> Self {
        let started = Instant::now();
        Self { started, deadline: options.deadline_from(started) }
    }

    pub(super) fn spent(self, attempts: u32) -> Spent {
        Spent { attempts, elapsed: self.started.elapsed() }
    }

    /// Returns the time limit for the server: slightly less than what is left, so that the server reports
    /// the timeout, which keeps the connection usable, before the client gives up.
    pub(super) fn server_limit(self) -> Duration {
        self.server_limit_at(Instant::now())
    }

    pub(super) fn server_limit_at(self, now: Instant) -> Duration {
        just_below(self.deadline.saturating_duration_since(now))
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// Resolves when there is a reason to give up an attempt.
pub(super) type Reason = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The clock of a run and its alarm. One alarm serves the whole run, because setting one for each wait
/// would wake the runtime up each time.
pub(super) struct Timer {
    pub(super) clock: Clock,
    alarm: Pin<Box<Sleep>>,
    /// Resolves when the current attempt is to be given up before the deadline.
    reason_to_give_up: Option<Reason>,
    has_given_up: bool,
    /// The waker that the alarm is set to wake.
    wakes: Option<Waker>,
    /// The clock for the run's observers, if it has any.
    pub(super) observation: Option<Arc<RunClock>>,
}

impl Timer {
    pub(super) fn start(options: &Options, observation: Option<Arc<RunClock>>) -> Self {
        let clock = Clock::start(options);
        let alarm = Box::pin(sleep_until(clock.deadline));
        Self { clock, alarm, wakes: None, reason_to_give_up: None, has_given_up: false, observation }
    }

    /// Ends the waits of the next attempt when `reason` resolves, as if the deadline had passed.
    pub(super) fn give_up_when(&mut self, reason: Reason) {
        self.reason_to_give_up = Some(reason);
    }

    /// Returns whether the attempt was given up before the deadline, and forgets the reason.
    pub(super) fn has_given_up(&mut self) -> bool {
        self.reason_to_give_up = None;
        std::mem::take(&mut self.has_given_up)
    }

    /// Notifies the observers.
    pub(super) fn notify(&self, event: impl FnOnce(&RunClock)) {
        if let Some(observation) = &self.observation {
            event(observation);
        }
    }

    /// Waits for a turn at the gate until the deadline; returns `None` if the deadline passes first.
    ///
    /// The caller pins the future, as for [`within`](Self::within).
    pub(super) async fn at_gate<F: Future + Unpin>(&mut self, waiting: F) -> Option<F::Output> {
        match self.observation.clone() {
            None => self.within(waiting).await,
            Some(observation) => self.within(pin!(observation.at_gate(waiting))).await,
        }
    }

    /// Waits for a future until the deadline; returns `None` if the deadline passes first.
    ///
    /// The caller pins the future: moving it in here would double its size in the future of every run.
    pub(super) async fn within<F: Future + Unpin>(&mut self, mut future: F) -> Option<F::Output> {
        poll_fn(|context| match Pin::new(&mut future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.gives_up(context) => Poll::Ready(None),
            Poll::Pending => self.poll_alarm(context).map(|()| None),
        })
        .await
    }

    fn gives_up(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(reason) = &mut self.reason_to_give_up
            && reason.as_mut().poll(context).is_ready()
        {
            self.reason_to_give_up = None;
            self.has_given_up = true;
        }
        self.has_given_up
    }

    /// Polls the alarm, unless it is already set to wake this task. A run polls it at every round trip.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_set = self.wakes.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if is_set && !self.alarm.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its budget is polled again, and the alarm is not set until then.
        let sets = has_budget_remaining();
        let over = self.alarm.as_mut().poll(context);
        self.wakes = (sets && over.is_pending()).then(|| context.waker().clone());
        over
    }

    /// Runs hooks, and waits for them until the deadline. After that they are finished in the background.
    pub(super) async fn run_hooks(&mut self, hooks: Hooks, end: TxEnd) {
        if !hooks.is_empty() {
            self.within(Shield::new(Handle::current(), hooks.run(end), ())).await;
        }
    }
}
