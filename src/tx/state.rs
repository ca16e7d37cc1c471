//! What a transaction remembers of its statements.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use sqlx::{SqlSafeStr as _, SqlStr};

use crate::backend::{
    Backend, Survival, TransactionOver, WatchedQuery, failure_of, failure_or_other, with_failure,
};
use crate::error::Error;
use crate::failure::{ConstraintKind, Failure, FailureKind};
use crate::sql_text::asks_nowait;
use crate::telemetry::RunClock;

use super::admission::{Admission, admission};
use super::probe;
use super::right_of_way::{RightOfWay, gave_way};

/// The memory of one transaction.
#[derive(Default)]
pub(super) struct TxState {
    over: Option<Failure>,
    /// What the last statement failed with, survivable or not.
    last: Option<Failure>,
    /// Left set by a statement whose future was dropped before it was done: nothing has to notice the drop.
    in_flight: bool,
    /// A statement failed in a way that may have ended the transaction; this one, sent first, tells.
    ask: Option<&'static str>,
    /// A savepoint was set around a statement that may have ended the transaction.
    pub(super) is_probing: bool,
    /// The caller's hands were on the connection since the guard was last known to hold.
    pub(super) distrusts_guard: bool,
    /// Savepoints of the caller's own stand behind the guard, which is not to be set anew then.
    pub(super) has_savepoints: bool,
    /// To whom the transaction gives way.
    pub(super) gives_way_to: Option<RightOfWay>,
    /// Each statement needs a packet of its own.
    pub(super) takes_one_at_a_time: bool,
    /// A statement other than a query was sent: it may have changed settings of the session.
    pub(super) may_have_changed_settings: bool,
    /// A statement of the unit's was sent.
    sent: bool,
    /// The caller's hands were on the connection.
    touched: bool,
    /// The session is not to be used again.
    distrusted: bool,
    /// A stream was given up with rows unread.
    unread: bool,
    /// The same, for the end of the connection; set from the first row on.
    pub(super) is_streaming: Arc<AtomicBool>,
    /// Set by a savepoint's scope that was dropped before its end.
    scope_dropped: Option<Arc<AtomicBool>>,
    /// A text that was to be locked and cannot be: the next statement returns it.
    not_lockable: OnceLock<Failure>,
    /// Those who watch the unit.
    observation: Option<Arc<RunClock>>,
}

impl TxState {
    pub(super) fn new(observation: Option<Arc<RunClock>>) -> Self {
        Self { observation, ..Self::default() }
    }

    pub(super) fn observation(&self) -> Option<&Arc<RunClock>> {
        self.observation.as_ref()
    }

    /// What ended the transaction. Its first failure: the ones after it are consequences.
    pub(super) fn over(&mut self) -> Option<&Failure> {
        if self.over.is_none() {
            let dropped = if self.in_flight {
                Some(
                    "the future of a statement was dropped before the statement was done, which runs on in \
                     the server; await \
                     it to its end, or limit it with `Options::statement_timeout`",
                )
            } else if self.scope_dropped.as_ref().is_some_and(|dropped| dropped.load(Ordering::Acquire)) {
                Some("the scope of a savepoint was dropped before it was done; await it to its end")
            } else {
                None
            };
            let dropped = dropped.map(|what| Failure::new(FailureKind::Aborted, what));
            self.over = dropped.or_else(|| self.not_lockable.get().cloned());
        }
        self.over.as_ref()
    }

    /// What a savepoint's scope is to set when it is dropped before its end.
    pub(super) fn watch_for_drops(&mut self) -> Arc<AtomicBool> {
        self.scope_dropped.get_or_insert_default().clone()
    }

    /// What went wrong is about to be undone.
    pub(super) fn forgive(&mut self) {
        self.over = None;
        self.last = None;
        self.ask = None;
    }

    /// Ends the transaction because of a text whose rows cannot be locked.
    pub(super) fn refuse_lock(&self, failure: Failure) {
        // The first one is the cause of the others.
        let _ = self.not_lockable.set(failure);
    }

    /// Whether a statement of the unit is on its way.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// The unique violation that the last statement met, if that is what it met.
    pub(super) fn unique_violation(&self) -> Option<&Failure> {
        self.last.as_ref().filter(|failure| {
            failure.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
        })
    }

    /// The session cannot be trusted with another statement, not even a ROLLBACK.
    pub(super) fn lost_its_place(&self) -> bool {
        let is_ended = |failure: &Failure| failure.ends_session();
        self.in_flight || self.distrusted || self.over.as_ref().is_some_and(is_ended)
    }

    /// Something has ended the transaction unseen, and may have left more on the session than a rollback
    /// undoes.
    pub(super) fn distrust_session(&mut self) {
        self.distrusted = true;
    }

    pub(super) fn end(&mut self, failure: Failure) {
        self.over.get_or_insert(failure);
    }

    pub(super) fn mark_unwatched(&mut self) {
        self.touched = true;
    }

    /// Whether this failure may hide that a part of the unit is stored: it has rolled everything back, the
    /// savepoint included that would have shown it.
    pub(super) fn may_be_stored_in_part<DB: Backend>(&self, failure: &Failure) -> bool {
        self.is_probing && DB::rolls_back_everything(failure)
    }

    /// Whether statements ran, or may have run, that were not seen.
    pub(super) fn is_unwatched(&self) -> bool {
        self.touched || self.unread
    }

    /// The text of the statement that was sent last, where that was seen.
    pub(super) fn failed_statement(&self) -> Option<String> {
        self.observation.as_ref().filter(|_| !self.is_unwatched())?.last_statement()
    }

    /// Whether the unit has sent a statement, or may have.
    pub(super) fn has_sent(&self) -> bool {
        self.sent || self.touched
    }

    /// The text is asked for where somebody watches.
    pub(super) fn begin_statement(&mut self, sql: impl FnOnce() -> SqlStr) {
        self.in_flight = true;
        if let Some(observation) = &self.observation {
            observation.sent(&sql());
        }
    }

    /// More is asked for of what the statement has to answer.
    pub(super) fn resume_statement(&mut self) {
        self.in_flight = true;
        if let Some(observation) = &self.observation {
            observation.resumed();
        }
    }

    /// A question of the crate's own is on its way, or was answered: no statement of the unit's, and nobody
    /// is told.
    pub(super) fn question(&mut self, on_its_way: bool) {
        self.in_flight = on_its_way;
    }

    /// `complete` says whether all that the server has to say has been read.
    pub(super) fn end_statement<DB: Backend, T>(
        &mut self,
        result: Result<T, sqlx::Error>,
        sql: &SqlStr,
        complete: bool,
    ) -> Result<T, sqlx::Error> {
        self.in_flight = false;
        if self.unread == complete {
            self.is_streaming.store(!complete, Ordering::Release);
        }
        self.unread = !complete;
        self.last = None;
        let result = result.map_err(|error| self.remember::<DB>(error, sql));
        if let Some(observation) = &self.observation {
            if complete || result.is_err() {
                observation.answered(self.last.as_ref());
            } else {
                observation.paused();
            }
        }
        result
    }

    fn remember<DB: Backend>(&mut self, error: sqlx::Error, sql: &SqlStr) -> sqlx::Error {
        let nowait = asks_nowait(DB::SYNTAX, sql.as_str());
        let Some(failure) = failure_of::<DB>(&error, nowait) else { return error };
        let error = if failure.kind() == FailureKind::LockNotAvailable {
            with_failure(error, &failure)
        } else {
            error
        };
        self.note::<DB>(failure);
        error
    }

    /// Remembers what a statement failed with.
    pub(super) fn note<DB: Backend>(&mut self, failure: Failure) {
        self.last = Some(failure.clone());
        match DB::after(&failure) {
            Survival::Open => {}
            Survival::Ask(statement) => self.ask = Some(statement),
            Survival::Over => self.end(failure),
        }
    }

    /// A statement of the crate's own was answered; one that fails leaves nothing to go on with.
    pub(super) fn end_control<DB: Backend>(&mut self, error: Option<sqlx::Error>) -> Result<(), Error> {
        self.in_flight = false;
        let failure = error.as_ref().map(failure_or_other::<DB>);
        if let Some(observation) = &self.observation {
            observation.answered(failure.as_ref());
        }
        let Some(failure) = failure else { return Ok(()) };
        self.end(failure.clone());
        Err(Error::failed(failure, None))
    }
}

/// Lets a statement of the crate's own pass, or answers why it may not.
pub(super) async fn admit_control<DB: Backend>(
    state: &mut TxState,
    connection: &mut DB::Connection,
) -> Result<(), Error> {
    make_sure::<DB>(state, connection).await;
    match state.over() {
        Some(failure) => Err(Error::failed(failure.clone(), None)),
        None => Ok(()),
    }
}

/// Asks whether a failed statement has ended the transaction, where nobody can tell without asking.
async fn make_sure<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    probe::look::<DB>(state, connection).await;
    let Some(statement) = state.ask.take() else { return };
    state.begin_statement(|| statement.into_sql_str());
    let reply = DB::send_text(connection, statement.to_owned()).await;
    state.in_flight = false;
    if let Some(observation) = &state.observation {
        observation.answered(None);
    }
    if reply.error.is_none() {
        state.end(Failure::new(
            FailureKind::Aborted,
            "a failed statement had ended the transaction, and another one was about to be run outside of it",
        ));
    }
}

/// Lets a statement pass, or answers why it may not.
pub(super) async fn admit<DB: Backend>(
    state: &mut TxState,
    connection: &mut DB::Connection,
    query: &WatchedQuery<DB>,
) -> Result<(), sqlx::Error> {
    make_sure::<DB>(state, connection).await;
    if state.gives_way_to.as_ref().is_some_and(RightOfWay::is_taken) {
        state.end(gave_way());
    }
    if state.over().is_none() {
        match admission(query) {
            Admission::Admitted => {}
            Admission::MayChangeSettings => state.may_have_changed_settings = true,
            Admission::SetsSavepoint => state.has_savepoints = true,
            Admission::Unwatched if state.takes_one_at_a_time => state.end(several_on_galera()),
            Admission::Unwatched => {
                state.has_savepoints = true;
                state.mark_unwatched();
            }
            Admission::MayEnd => {
                state.has_savepoints = true;
                state.mark_unwatched();
                probe::set::<DB>(state, connection).await;
            }
            Admission::Refused(failure) => state.end(failure),
        }
    }
    if let Some(failure) = state.over() {
        return Err(sqlx::Error::Database(Box::new(TransactionOver(failure.clone()))));
    }
    state.sent = true;
    Ok(())
}

/// On a node that aborts the transaction between two statements of one text, the second one would run outside
/// of it, and would be stored.
fn several_on_galera() -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        "several statements in one text were not sent: on a Galera cluster a conflict between two of them would go \
         unnoticed; send them one by one",
    )
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
    fn the_first_failure_is_the_cause() {
        let mut state = TxState::default();
        state.end(Failure::new(FailureKind::Deadlock, "first"));
        state.end(Failure::new(FailureKind::Aborted, "consequence"));
        assert_eq!(state.over().map(Failure::kind), Some(FailureKind::Deadlock));
    }
}
