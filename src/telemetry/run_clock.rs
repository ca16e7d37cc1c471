//! One run under observation: what it is doing, and what its time goes into.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sqlx::SqlStr;
use tokio::time::{Instant, Sleep, sleep_until};

use super::sessions::{self, SessionId};
use super::tracing::Span;
use crate::deadlock::{DeadlockReport, DeadlockUnit};
use crate::error::Error;
use crate::events::{Event, KeyOutcome, Run, RunOutcome, Summary, Times, UnitEvent};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{MaskedStatement, Syntax};
use crate::telemetry::Observers;

/// How many statements of an attempt are remembered, for reports of deadlocks.
const STATEMENTS_KEPT: usize = 16;

/// A run that somebody watches.
///
/// Whoever lets the unit wait says so here, before and after. Where nobody watches there is none of this.
pub(crate) struct RunClock {
    run: Run,
    /// How its statements are read, for what is shown of them.
    syntax: Syntax,
    observers: Observers,
    idle_limit: Duration,
    started: Instant,
    span: Option<Span>,
    state: Mutex<ClockState>,
}

#[derive(Default)]
struct ClockState {
    attempt: u32,
    attempt_span: Option<Span>,
    times: Times,
    /// The statement that was sent last, until another one is sent or the transaction ends.
    statement: Option<StatementClock>,
    /// When the transaction began to be idle, while it is.
    idle_since: Option<Instant>,
    /// Whether this pause was told of.
    warned: bool,
    /// The texts of the attempt's statements, without the values in them.
    sent: Vec<SqlStr>,
    /// When the last of them was sent.
    sent_at: Option<Instant>,
    /// The server's session that the transaction is in, where it was asked for.
    session: Option<SessionId>,
    /// The unit made an error of its own of a failure that is none of its business.
    failed: bool,
    ended: bool,
}

/// A statement on its way.
struct StatementClock {
    shown: MaskedStatement,
    idle: Duration,
    took: Duration,
    /// Since when the server has been at work on it, while it is.
    since: Option<Instant>,
}

impl RunClock {
    /// A run begins, which these observers are told of, and the log. `None` if nobody is.
    pub(crate) fn start(
        observers: &Observers,
        idle_limit: Duration,
        syntax: Syntax,
        run: impl FnOnce(u64) -> Run,
    ) -> Option<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let observers = observers.and_log();
        if observers.is_empty() {
            return None;
        }
        let run = run(NEXT.fetch_add(1, Ordering::Relaxed));
        let (started, span) = (Instant::now(), Span::of_unit(&run));
        let observation = Self { run, syntax, observers, idle_limit, started, span, state: Mutex::default() };
        observation.tell(UnitEvent::Started);
        Some(Arc::new(observation))
    }

    /// The span of the run.
    pub(crate) fn span(&self) -> Option<Span> {
        self.span.clone()
    }

    /// The span of the attempt.
    pub(crate) fn attempt_span(&self) -> Option<Span> {
        self.state().attempt_span.clone()
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: UnitEvent<'_>) {
        self.observers.notify(&Event::Unit { run: &self.run, event });
    }

    pub(crate) fn wants_sessions(&self) -> bool {
        self.observers.want_sessions()
    }

    /// The unit as a report of a deadlock names it.
    pub(crate) fn unit(&self) -> DeadlockUnit {
        let Run { id, name, location, .. } = self.run;
        DeadlockUnit { name, run: id, attempt: self.state().attempt, location }
    }

    /// The texts of the attempt's statements so far.
    pub(crate) fn statements(&self) -> Vec<String> {
        self.state().sent.iter().map(|sql| sql.as_str().to_owned()).collect()
    }

    /// The text of the statement that was sent last, without the values in it.
    pub(crate) fn last_statement(&self) -> Option<String> {
        self.state().last_sent().map(|sql| sql.as_str().to_owned())
    }

    pub(crate) fn attempt_started(&self, attempt: u32) {
        let mut state = self.state();
        state.begin(attempt);
        state.attempt_span = self.span.as_ref().and_then(|_| Span::of_attempt(attempt));
        drop(state);
        self.tell(UnitEvent::AttemptStarted { attempt });
    }

    /// Waits at the gate. A transaction that is open meanwhile is not idle: its unit has not begun.
    pub(crate) async fn at_gate<T>(&self, turn: impl Future<Output = T>) -> T {
        let asked = Instant::now();
        let _told = scopeguard::guard((), |()| {
            let waited = asked.elapsed();
            let mut state = self.state();
            state.times.gate += waited;
            state.idle_since = state.idle_since.map(|_| Instant::now());
            drop(state);
            self.tell(UnitEvent::WaitedAtGate { waited });
        });
        turn.await
    }

    /// The transaction is open, in this session of the server, where it was asked for.
    pub(crate) fn opened(self: &Arc<Self>, waited: Duration, took: Duration, session: Option<SessionId>) {
        let mut state = self.state();
        state.idle_since = Some(Instant::now());
        state.session = session;
        drop(state);
        if let Some(session) = session {
            sessions::entered(session, self);
        }
        self.tell(UnitEvent::Opened { waited, took });
    }

    /// Fills in which units of this process are parties to a deadlock of this one, met on this pool.
    pub(crate) fn name_units(&self, report: &mut DeadlockReport, pool: usize) {
        let asked = self.state().sent_at.unwrap_or(self.started);
        sessions::name(report, pool, asked, self);
    }

    /// A statement is sent.
    pub(crate) fn sent(&self, sql: &SqlStr) {
        self.settle();
        let shown = MaskedStatement::new(self.syntax, sql);
        self.end_pause(|state, idle| {
            let since = Some(Instant::now());
            state.remember(&shown.sql);
            state.sent_at = since;
            state.statement = Some(StatementClock { shown, idle, took: Duration::ZERO, since });
        });
    }

    /// The server answered a part of the statement, and nobody asks for more yet.
    pub(crate) fn paused(&self) {
        self.state().pause();
    }

    /// More of the statement's answer is asked for.
    pub(crate) fn resumed(&self) {
        self.end_pause(|state, _| {
            if let Some(statement) = &mut state.statement {
                statement.since.get_or_insert_with(Instant::now);
            }
        });
    }

    /// The statement was answered.
    pub(crate) fn answered(&self, failure: Option<&Failure>) {
        let mut state = self.state();
        state.pause();
        let statement = state.take_statement();
        drop(state);
        self.tell_statement(statement, failure);
    }

    /// The transaction is about to be ended.
    pub(crate) fn ending(&self) {
        self.settle();
        self.end_pause(|_, _| ());
    }

    /// The end of the transaction was answered.
    pub(crate) fn ended_transaction(&self) {
        let session = self.state().session.take();
        if let Some(session) = session {
            sessions::left(session);
        }
    }

    /// The attempt is over, whatever was going on in it.
    pub(crate) fn attempt_over(&self) {
        self.ending();
    }

    pub(crate) fn attempt_failed(&self, failure: &Failure) {
        let mut state = self.state();
        let (attempt, span) = (state.attempt, state.attempt_span.take());
        drop(state);
        if let Some(span) = span {
            span.failed(failure);
        }
        self.tell(UnitEvent::AttemptFailed { attempt, failure });
    }

    /// There is no other attempt after this failure, of which the unit makes what it likes. A violated
    /// constraint is news for the unit's caller, and nothing that went wrong.
    pub(crate) fn given_up(&self, failure: &Failure) {
        self.state().failed = failure.kind() != FailureKind::Constraint;
    }

    /// There will be another attempt.
    pub(crate) fn backing_off(&self, delay: Duration) {
        self.tell(UnitEvent::BackingOff { delay });
    }

    /// The run is over. Nothing that is told later counts.
    pub(crate) fn ended(&self, outcome: RunOutcome, error: Option<&Error>) {
        let mut state = self.state();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        state.attempt_span = None;
        let outcome = match outcome {
            RunOutcome::RolledBack if state.failed => RunOutcome::Failed,
            outcome => outcome,
        };
        let summary =
            Summary { outcome, attempts: state.attempt, elapsed: self.started.elapsed(), times: state.times };
        drop(state);
        if let Some(span) = &self.span {
            span.ended(outcome, summary.attempts);
        }
        self.tell(UnitEvent::Ended { summary: &summary, error });
    }

    pub(crate) fn notify_of_key(&self, outcome: KeyOutcome) {
        self.observers.notify(&Event::Key { run: &self.run, outcome });
    }

    pub(super) fn look_at_the_clock(
        &self,
        alarm: &mut Option<Pin<Box<Sleep>>>,
        pool_exhausted: impl Fn() -> bool,
        context: &mut Context<'_>,
    ) {
        let state = self.state();
        let Some(since) = state.idle_since.filter(|_| !state.warned && !state.sent.is_empty()) else {
            return;
        };
        drop(state);
        let Some(at) = since.checked_add(self.idle_limit) else { return };
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        if alarm.as_mut().poll(context) == Poll::Ready(()) {
            let mut state = self.state();
            state.warned = true;
            let after = state.last_sent();
            drop(state);
            self.tell_idle(since.elapsed(), after.as_ref(), pool_exhausted());
        }
    }

    /// The transaction is no longer idle. A pause that nobody told of while it lasted, because the unit did
    /// not give way, is told of now.
    fn end_pause(&self, go_on: impl FnOnce(&mut ClockState, Duration)) {
        let mut state = self.state();
        let idle = state.idle_since.take().map(|since| since.elapsed()).unwrap_or_default();
        state.times.idle += idle;
        let is_news = !std::mem::take(&mut state.warned) && idle > self.idle_limit;
        let after = if is_news { state.last_sent() } else { None };
        go_on(&mut state, idle);
        drop(state);
        self.tell_idle(idle, after.as_ref(), false);
    }

    fn tell_idle(&self, idle: Duration, after: Option<&SqlStr>, pool_exhausted: bool) {
        if let Some(after) = after {
            self.tell(UnitEvent::Idle { idle, after: after.as_str(), pool_exhausted });
        }
    }

    /// A statement whose answer nobody waited for, or read to its end.
    fn settle(&self) {
        let statement = self.state().take_statement();
        self.tell_statement(statement, None);
    }

    fn tell_statement(&self, statement: Option<StatementClock>, failure: Option<&Failure>) {
        if let Some(StatementClock { shown, idle, took, .. }) = statement {
            self.tell(UnitEvent::StatementDone { sql: shown.sql.as_str(), idle, took, failure });
        }
    }
}

impl ClockState {
    fn begin(&mut self, attempt: u32) {
        self.attempt = attempt;
        self.sent.clear();
        (self.statement, self.idle_since, self.warned, self.session) = (None, None, false, None);
    }

    fn remember(&mut self, sql: &SqlStr) {
        if self.sent.len() == STATEMENTS_KEPT {
            self.sent.remove(0);
        }
        self.sent.push(sql.clone());
    }

    fn last_sent(&self) -> Option<SqlStr> {
        self.sent.last().cloned()
    }

    fn pause(&mut self) {
        if let Some(statement) = &mut self.statement
            && let Some(since) = statement.since.take()
        {
            statement.took += since.elapsed();
            (self.idle_since, self.warned) = (Some(Instant::now()), false);
        }
    }

    fn take_statement(&mut self) -> Option<StatementClock> {
        self.pause();
        let statement = self.statement.take()?;
        self.times.statements += statement.took;
        if statement.shown.may_wait_for_locks {
            self.times.locking += statement.took;
        }
        Some(statement)
    }
}

/// Waits for a future, whose time goes there, also when it is dropped.
///
/// It is pinned by the caller: moved in here, it would take its room twice in the future of every run.
pub(crate) async fn counted<F: Future + Unpin>(
    observation: Option<&RunClock>,
    into: fn(&mut Times) -> &mut Duration,
    waiting: F,
) -> F::Output {
    let started = observation.map(|observation| (observation, Instant::now()));
    let _counted = scopeguard::guard(started, |started| {
        if let Some((observation, asked)) = started {
            *into(&mut observation.state().times) += asked.elapsed();
        }
    });
    waiting.await
}

/// A run that was dropped says so.
impl Drop for RunClock {
    fn drop(&mut self) {
        self.ended(RunOutcome::Dropped, None);
    }
}
