//! The state of a transaction, which every statement updates.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::SqlStr;

use crate::backend::{Backend, Survival, failure_of, failure_or_other, with_failure};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::sql_text::has_nowait;
use crate::telemetry::RunClock;

use super::right_of_way::RightOfWay;

/// What one transaction remembers about its statements.
#[derive(Default)]
pub(super) struct TxState {
    /// The failure that ended the transaction, if it has ended.
    // Boxed like the other failures, because most transactions have none.
    over: Option<Box<Failure>>,
    /// The failure of the last statement, whether or not it ended the transaction.
    last: Option<Box<Failure>>,
    /// Whether a statement is in flight. Stays set when the statement's future is dropped, so no code has to
    /// notice the drop.
    in_flight: bool,
    /// Set after a failure that may have ended the transaction. This query, sent before the next statement,
    /// succeeds if it has.
    pub(super) status_query: Option<&'static str>,
    /// Whether the probe savepoint is set, because the last statement may have ended the transaction.
    pub(super) is_probing: bool,
    /// Whether the unit has used the connection itself since the guard savepoint was last known to exist.
    pub(super) distrusts_guard: bool,
    /// Whether the unit has set savepoints of its own after the guard. If so, the guard must not be set
    /// again.
    pub(super) has_savepoints: bool,
    /// The text that releases the innermost savepoint that has ended, if it is sent with the next statement
    /// of this crate.
    pub(super) unreleased: Option<String>,
    /// The runs of the same unit that take precedence.
    pub(super) gives_way_to: Option<RightOfWay>,
    /// The name of the engine, if its data definition is not part of the transaction.
    pub(super) ddl_escapes: Option<&'static str>,
    /// Whether the server requires a packet of its own for each statement.
    pub(super) takes_one_at_a_time: bool,
    /// Whether a statement other than a query was sent, which may have changed settings of the session.
    pub(super) may_have_changed_settings: bool,
    /// Whether the unit has sent a statement.
    pub(super) sent: bool,
    /// Whether the unit has used the connection itself.
    used_directly: bool,
    /// Whether the session must not be used again.
    is_unusable: bool,
    /// Whether a stream was dropped with rows unread.
    unread: bool,
    /// Tells the connection, when it is closed, that rows are unread. Set from the first row on.
    streaming: Option<Arc<AtomicBool>>,
    /// Set when a savepoint's future is dropped before its end.
    scope_dropped: Option<Arc<AtomicBool>>,
    /// Set if the rows of a text could not be locked. The next statement returns this failure.
    not_lockable: OnceLock<Box<Failure>>,
    /// The clock of the run, if it is observed.
    run_clock: Option<Arc<RunClock>>,
}

impl TxState {
    /// `streaming` is the flag that tells the connection that rows are unread.
    pub(super) fn new(run_clock: Option<Arc<RunClock>>, streaming: Arc<AtomicBool>) -> Self {
        Self { run_clock, streaming: Some(streaming), ..Self::default() }
    }

    pub(super) fn run_clock(&self) -> Option<&Arc<RunClock>> {
        self.run_clock.as_ref()
    }

    /// Returns the failure that ended the transaction: the first one, since later failures are consequences
    /// of it.
    pub(super) fn over(&mut self) -> Option<&Failure> {
        if self.over.is_none() {
            self.over = self.unnoticed_failure();
        }
        self.over.as_deref()
    }

    /// Returns the failure of a transaction in which a future was dropped, or rows could not be locked.
    fn unnoticed_failure(&self) -> Option<Box<Failure>> {
        let message = if self.in_flight {
            "the future of a statement was dropped before the statement had ended, which continues in the \
             server; await it to its end, or limit it with `Options::statement_timeout`"
        } else if self.scope_dropped.as_ref().is_some_and(|dropped| dropped.load(Ordering::Acquire)) {
            "the future of a savepoint was dropped before it had ended; await it to its end"
        } else {
            return self.not_lockable.get().cloned();
        };
        Some(Box::new(Failure::new(FailureKind::Aborted, message)))
    }

    /// Returns the flag that a savepoint sets when its future is dropped before its end.
    pub(super) fn watch_for_drops(&mut self) -> Arc<AtomicBool> {
        self.scope_dropped.get_or_insert_default().clone()
    }

    /// Clears the failures of a savepoint that is about to be rolled back.
    pub(super) fn clear_failure(&mut self) {
        self.over = None;
        self.last = None;
        self.status_query = None;
    }

    /// Ends the transaction because the rows of a text cannot be locked.
    pub(super) fn refuse_lock(&self, failure: Failure) {
        // The first failure is the cause.
        let _ = self.not_lockable.set(Box::new(failure));
    }

    /// Returns whether a statement of the unit is in flight.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Returns the failure of the last statement if it violated a unique key.
    pub(super) fn unique_violation(&self) -> Option<&Failure> {
        self.last.as_deref().filter(|failure| failure.is_unique_violation())
    }

    /// Returns whether the session cannot execute another statement, not even ROLLBACK.
    pub(super) fn session_is_unusable(&self) -> bool {
        self.in_flight || self.is_unusable || self.over.as_ref().is_some_and(|failure| failure.ends_session())
    }

    /// Returns whether rows of a statement are unread, perhaps without end.
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming.as_ref().is_some_and(|streaming| streaming.load(Ordering::Acquire))
    }

    /// Marks the session as unusable: something has ended the transaction unseen, and may have left more on
    /// the session than a rollback undoes.
    pub(super) fn distrust_session(&mut self) {
        self.is_unusable = true;
    }

    /// Returns whether the server has to be asked about the transaction before the next statement.
    pub(super) const fn is_in_question(&self) -> bool {
        self.is_probing || self.distrusts_guard || self.status_query.is_some()
    }

    pub(super) fn end(&mut self, failure: Failure) {
        self.over.get_or_insert_with(|| Box::new(failure));
    }

    pub(super) fn mark_unwatched(&mut self) {
        self.used_directly = true;
    }

    /// Returns whether a part of the unit may be stored despite this failure: the server has rolled
    /// everything back, including the savepoint that would have revealed an earlier commit.
    pub(super) fn may_be_stored_in_part<DB: Backend>(&self, failure: &Failure) -> bool {
        self.is_probing && DB::rolls_back_everything(failure)
    }

    /// Returns whether unwatched statements ran, or may have run.
    pub(super) fn is_unwatched(&self) -> bool {
        self.used_directly || self.unread
    }

    /// Returns the text of the last statement, unless unwatched statements may have run after it.
    pub(super) fn failed_statement(&self) -> Option<String> {
        self.run_clock.as_ref().filter(|_| !self.is_unwatched())?.last_statement()
    }

    /// Returns whether the unit has sent a statement, or may have.
    pub(super) fn has_sent(&self) -> bool {
        self.sent || self.used_directly
    }

    /// Records that a statement is sent. `sql` is called only if the run is observed.
    pub(super) fn begin_statement(&mut self, sql: impl FnOnce() -> SqlStr) {
        self.in_flight = true;
        if let Some(run_clock) = &self.run_clock {
            run_clock.sent(&sql());
        }
    }

    /// Records that the unit requests more rows of the statement.
    pub(super) fn resume_statement(&mut self) {
        self.in_flight = true;
        if let Some(run_clock) = &self.run_clock {
            run_clock.resumed();
        }
    }

    /// Marks a query of this crate as in flight or answered. It is not a statement of the unit, so
    /// observers are not notified.
    pub(super) fn set_in_flight(&mut self, in_flight: bool) {
        self.in_flight = in_flight;
    }

    /// Records the result of a statement. `complete` says whether all of the server's response was read.
    pub(super) fn end_statement<DB: Backend, T>(
        &mut self,
        result: Result<T, sqlx::Error>,
        sql: &SqlStr,
        complete: bool,
    ) -> Result<T, sqlx::Error> {
        self.in_flight = false;
        if let Some(streaming) = self.streaming.as_ref().filter(|_| self.unread == complete) {
            streaming.store(!complete, Ordering::Release);
        }
        self.unread = !complete;
        self.last = None;
        let result = result.map_err(|error| self.record_error::<DB>(error, sql));
        if let Some(run_clock) = &self.run_clock {
            if complete || result.is_err() {
                run_clock.answered(self.last.as_deref());
            } else {
                run_clock.paused();
            }
        }
        result
    }

    fn record_error<DB: Backend>(&mut self, error: sqlx::Error, sql: &SqlStr) -> sqlx::Error {
        let nowait = has_nowait(DB::SYNTAX, sql.as_str());
        let Some(failure) = failure_of::<DB>(&error, nowait) else { return error };
        let error = if failure.kind() == FailureKind::LockNotAvailable {
            with_failure(error, &failure)
        } else {
            error
        };
        self.note::<DB>(failure);
        error
    }

    /// Records the failure of a statement.
    pub(super) fn note<DB: Backend>(&mut self, failure: Failure) {
        self.last = Some(Box::new(failure.clone()));
        match DB::survival(&failure) {
            Survival::Open => {}
            Survival::Ask(statement) => self.status_query = Some(statement),
            Survival::Over => self.end(failure),
        }
    }

    /// Records the result of a statement of this crate, whose failure ends the transaction. `unreported` is
    /// the failure of a transaction that was gone before.
    pub(super) fn end_control<DB: Backend>(
        &mut self,
        error: Option<sqlx::Error>,
        unreported: Option<Failure>,
    ) -> Result<(), Error> {
        self.in_flight = false;
        let failure = error.as_ref().map(failure_or_other::<DB>);
        if let Some(run_clock) = &self.run_clock {
            run_clock.answered(failure.as_ref());
        }
        let Some(failure) = failure else { return Ok(()) };
        let failure = unreported.filter(|_| failure.kind() == FailureKind::Aborted).unwrap_or(failure);
        self.end(failure.clone());
        Err(Error::failed(failure, None))
    }
}

impl fmt::Debug for TxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxState")
            .field("over", &self.over)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_failure() {
        let mut state = TxState::default();
        state.end(Failure::new(FailureKind::Deadlock, "first"));
        state.end(Failure::new(FailureKind::Aborted, "consequence"));
        assert_eq!(state.over().map(Failure::kind), Some(FailureKind::Deadlock));
    }
}
