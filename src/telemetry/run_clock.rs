//! The clock of an observed run.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sqlx::SqlStr;
use tokio::time::{Instant, Sleep, sleep_until};

use super::attempt_log::AttemptLog;
use super::sessions::{self, SessionId};
use super::tracing::Span;
use crate::deadlock::{DeadlockReport, DeadlockUnit};
use crate::error::Error;
use crate::events::{Event, KeyOutcome, Run, RunOutcome, Summary, Times, UnitEvent};
use crate::failure::{Failure, FailureKind};
use crate::sql_text::{MaskedStatement, Syntax};
use crate::telemetry::Observers;

mod together;

/// The clock of an observed run: measures what the run spends its time on and notifies its observers.
///
/// Code that makes the unit wait reports to the clock before and after the wait. Runs without observers, and
/// with the log turned off, have no clock.
pub(crate) struct RunClock {
    run: Run,
    /// The dialect of its statements, whose literals are replaced before they are shown.
    syntax: Syntax,
    observers: Observers,
    idle_limit: Duration,
    started: Instant,
    span: Option<Span>,
    state: Mutex<ClockState>,
}

struct ClockState {
    attempt: Arc<AttemptLog>,
    attempt_span: Option<Span>,
    times: Times,
    /// The last statement, until the next one is sent or the transaction ends.
    statement: Option<StatementClock>,
    /// When the open transaction became idle; `None` while it is not idle.
    idle_since: Option<Instant>,
    /// Whether observers were notified of the current pause.
    warned: bool,
    /// The server session of the transaction, if an observer wants it.
    session: Option<SessionId>,
    /// A failure other than a constraint violation ended the run, whatever error the unit returned.
    failed: bool,
    /// The attempt found the response of an earlier request with its idempotency key.
    replayed: bool,
    ended: bool,
}

/// Measures one statement.
struct StatementClock {
    shown: MaskedStatement,
    /// How long the transaction was idle before it.
    idle: Duration,
    took: Duration,
    /// When the server started to work on it; `None` while the server is not working on it.
    since: Option<Instant>,
}

impl RunClock {
    /// Starts the clock of a run and notifies its observers. Returns `None` if there are none and the log is
    /// off.
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
        let state = Mutex::new(ClockState::new(AttemptLog::new(unit(&run, 0))));
        let clock = Self { run, syntax, observers, idle_limit, started, span, state };
        clock.notify(UnitEvent::Started);
        Some(Arc::new(clock))
    }

    pub(crate) fn span(&self) -> Option<Span> {
        self.span.clone()
    }

    pub(crate) fn attempt_span(&self) -> Option<Span> {
        self.state().attempt_span.clone()
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, event: UnitEvent<'_>) {
        self.observers.notify(&Event::Unit { run: &self.run, event });
    }

    pub(crate) fn wants_sessions(&self) -> bool {
        self.observers.want_sessions()
    }

    /// Returns the text of the attempt's last statement, with `?` in place of each literal.
    pub(crate) fn last_statement(&self) -> Option<String> {
        self.state().attempt.last_statement().map(|sql| sql.as_str().to_owned())
    }

    pub(crate) fn attempt_started(&self, attempt: u32) {
        let mut state = self.state();
        state.begin(AttemptLog::new(unit(&self.run, attempt)));
        state.attempt_span = self.span.as_ref().and_then(|_| Span::of_attempt(attempt));
        drop(state);
        self.notify(UnitEvent::AttemptStarted { attempt });
    }

    /// Measures a wait at the gate. A transaction that is open meanwhile does not count as idle, because its
    /// unit has not begun.
    pub(crate) async fn at_gate<T>(&self, turn: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let _notify = scopeguard::guard((), |()| {
            let waited = started.elapsed();
            let mut state = self.state();
            state.times.gate += waited;
            state.idle_since = state.idle_since.map(|_| Instant::now());
            drop(state);
            self.notify(UnitEvent::WaitedAtGate { waited });
        });
        turn.await
    }

    /// Records that the transaction is open. `session` is its server session, if an observer wants it.
    pub(crate) fn opened(&self, waited: Duration, took: Duration, session: Option<SessionId>) {
        let mut state = self.state();
        state.idle_since = Some(Instant::now());
        state.session = session;
        let attempt = state.attempt.clone();
        drop(state);
        if let Some(session) = session {
            sessions::enter(session, &attempt);
        }
        self.notify(UnitEvent::Opened { waited, took });
    }

    /// Fills in the units of this process in the report of a deadlock that ended this attempt. `pool` is the
    /// identity of its pool.
    pub(crate) fn name_units(&self, report: &mut DeadlockReport, pool: usize) {
        let attempt = self.state().attempt.clone();
        let requested = attempt.last_sent_at().unwrap_or(self.started);
        sessions::name_parties(report, pool, requested, &attempt);
    }

    /// Records that a statement is sent.
    pub(crate) fn sent(&self, sql: &SqlStr) {
        self.settle();
        let shown = MaskedStatement::new(self.syntax, sql);
        self.end_pause(|state, idle| {
            let now = Instant::now();
            state.attempt.record(&shown.sql, now);
            state.statement = Some(StatementClock { shown, idle, took: Duration::ZERO, since: Some(now) });
        });
    }

    /// Records that the server has sent a part of the statement's rows, and the unit has not requested more.
    pub(crate) fn paused(&self) {
        self.state().pause();
    }

    /// Records that the unit requests more of the statement's rows.
    pub(crate) fn resumed(&self) {
        self.end_pause(|state, _| {
            if let Some(statement) = &mut state.statement {
                statement.since.get_or_insert_with(Instant::now);
            }
        });
    }

    /// Records that the statement has ended.
    pub(crate) fn answered(&self, failure: Option<&Failure>) {
        let mut state = self.state();
        state.pause();
        let statement = state.take_statement();
        drop(state);
        self.notify_of_statement(statement, failure);
    }

    /// Records that COMMIT or ROLLBACK is about to be sent.
    pub(crate) fn ending(&self) {
        self.settle();
        self.end_pause(|_, _| ());
    }

    /// Records that the server has ended the transaction.
    pub(crate) fn ended_transaction(&self) {
        let session = self.state().session.take();
        if let Some(session) = session {
            sessions::leave(session);
        }
    }

    /// Records that the attempt has ended, with or without an open transaction.
    pub(crate) fn attempt_over(&self) {
        self.ending();
    }

    pub(crate) fn attempt_failed(&self, failure: &Failure) {
        let mut state = self.state();
        let (attempt, span) = (state.attempt.unit().attempt, state.attempt_span.take());
        drop(state);
        if let Some(span) = span {
            span.failed(failure);
        }
        self.notify(UnitEvent::AttemptFailed { attempt, failure });
    }

    /// Records that the run is not retried after `failure`. The run then counts as failed even if the unit
    /// returns an error of its own; a constraint violation counts as rolled back, because it is a result that
    /// the unit's caller expects.
    pub(crate) fn given_up(&self, failure: &Failure) {
        self.state().failed = failure.kind() != FailureKind::Constraint;
    }

    /// Records that another attempt follows after `delay`.
    pub(crate) fn backing_off(&self, delay: Duration) {
        self.notify(UnitEvent::BackingOff { delay });
    }

    /// Ends the run and notifies its observers. Later calls do nothing.
    pub(crate) fn ended(&self, outcome: RunOutcome, error: Option<&Error>) {
        let mut state = self.state();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        state.attempt_span = None;
        let outcome = match outcome {
            RunOutcome::RolledBack if state.failed => RunOutcome::Failed,
            RunOutcome::RolledBack if state.replayed => RunOutcome::Replayed,
            outcome => outcome,
        };
        let summary = Summary {
            outcome,
            attempts: state.attempt.unit().attempt,
            elapsed: self.started.elapsed(),
            times: state.times,
        };
        drop(state);
        self.notify(UnitEvent::Ended { summary: &summary, error });
        // After the line about the end, which would repeat these fields.
        if let Some(span) = &self.span {
            span.ended(&self.run, outcome, summary.attempts);
        }
    }

    /// Records that the attempt returns the response of an earlier request instead of running the unit.
    #[cfg(feature = "idempotency")]
    pub(crate) fn replayed(&self) {
        self.state().replayed = true;
    }

    pub(crate) fn notify_of_key(&self, outcome: KeyOutcome) {
        self.observers.notify(&Event::Key { run: &self.run, outcome });
    }

    /// Warns when the transaction has been idle for longer than the limit, and otherwise registers
    /// `context` to be woken at that time.
    pub(super) fn check_idle(
        &self,
        alarm: &mut Option<Pin<Box<Sleep>>>,
        pool_exhausted: impl Fn() -> bool,
        context: &mut Context<'_>,
    ) {
        let state = self.state();
        let Some(since) = state.idle_since.filter(|_| !state.warned) else { return };
        let Some(after) = state.attempt.last_statement() else { return };
        drop(state);
        let Some(at) = since.checked_add(self.idle_limit) else { return };
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        if alarm.as_mut().poll(context) == Poll::Ready(()) {
            self.state().warned = true;
            self.notify_of_idle(since.elapsed(), Some(&after), pool_exhausted());
        }
    }

    /// Ends a pause of the transaction. If the unit blocked its task, the pause could not be reported while
    /// it lasted, and is reported here.
    fn end_pause(&self, go_on: impl FnOnce(&mut ClockState, Duration)) {
        let mut state = self.state();
        let idle = state.idle_since.take().map(|since| since.elapsed()).unwrap_or_default();
        state.times.idle += idle;
        let is_unreported = !std::mem::take(&mut state.warned) && idle > self.idle_limit;
        let after = if is_unreported { state.attempt.last_statement() } else { None };
        go_on(&mut state, idle);
        drop(state);
        self.notify_of_idle(idle, after.as_ref(), false);
    }

    fn notify_of_idle(&self, idle: Duration, after: Option<&SqlStr>, pool_exhausted: bool) {
        if let Some(after) = after {
            self.notify(UnitEvent::Idle { idle, after: after.as_str(), pool_exhausted });
        }
    }

    /// Ends a statement whose result was dropped or not read to its end.
    fn settle(&self) {
        let statement = self.state().take_statement();
        self.notify_of_statement(statement, None);
    }

    fn notify_of_statement(&self, statement: Option<StatementClock>, failure: Option<&Failure>) {
        if let Some(StatementClock { shown, idle, took, .. }) = statement {
            self.notify(UnitEvent::StatementDone { sql: shown.sql.as_str(), idle, took, failure });
        }
    }
}

impl ClockState {
    fn new(attempt: AttemptLog) -> Self {
        Self {
            attempt: Arc::new(attempt),
            attempt_span: None,
            times: Times::default(),
            statement: None,
            idle_since: None,
            warned: false,
            session: None,
            failed: false,
            replayed: false,
            ended: false,
        }
    }

    fn begin(&mut self, attempt: AttemptLog) {
        self.attempt = Arc::new(attempt);
        (self.statement, self.idle_since, self.warned, self.session) = (None, None, false, None);
        self.replayed = false;
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

/// The unit as deadlock reports name it.
fn unit(run: &Run, attempt: u32) -> DeadlockUnit {
    let Run { id, name, location, .. } = *run;
    DeadlockUnit { name, run: id, attempt, location }
}

/// Awaits a future and adds its time to one of the run's times, also when the future is dropped.
///
/// The caller pins the future: moving it here would store it twice in the future of every run.
pub(crate) async fn counted<F: Future + Unpin>(
    clock: Option<&RunClock>,
    into: fn(&mut Times) -> &mut Duration,
    waiting: F,
) -> F::Output {
    let started = clock.map(|clock| (clock, Instant::now()));
    let _counted = scopeguard::guard(started, |started| {
        if let Some((clock, started)) = started {
            *into(&mut clock.state().times) += started.elapsed();
        }
    });
    waiting.await
}

impl Drop for RunClock {
    fn drop(&mut self) {
        self.ended(RunOutcome::Dropped, None);
    }
}
