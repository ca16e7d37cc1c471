//! What a transaction remembers of its statements.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{SqlSafeStr as _, SqlStr};

use crate::backend::{
    Backend, Survival, TransactionOver, WatchedQuery, failure_of, failure_or_other, with_failure,
};
use crate::error::Error;
use crate::failure::{ConstraintKind, Failure, FailureKind};
use crate::observe::Observation;

/// The memory of one transaction.
#[derive(Default)]
pub(super) struct Journal {
    over: Option<Failure>,
    /// What the last statement failed with, survivable or not.
    last: Option<Failure>,
    /// Left set by a statement whose future was dropped before it was done: nothing has to notice the drop.
    in_flight: bool,
    /// A statement failed in a way that may have ended the transaction; this one, sent first, tells.
    ask: Option<&'static str>,
    /// The caller's hands were on the connection.
    touched: bool,
    /// The session is not to be used again.
    distrusted: bool,
    /// A stream was given up with rows unread.
    unread: bool,
    /// Set by a savepoint's scope that was dropped before its end.
    scope_dropped: Option<Arc<AtomicBool>>,
    /// Those who watch the unit.
    observation: Option<Arc<Observation>>,
}

impl Journal {
    pub(super) fn new(observation: Option<Arc<Observation>>) -> Self {
        Self { observation, ..Self::default() }
    }

    pub(super) fn observation(&self) -> Option<&Arc<Observation>> {
        self.observation.as_ref()
    }

    /// What ended the transaction. Its first failure: the ones after it are consequences.
    pub(super) fn over(&mut self) -> Option<&Failure> {
        if self.over.is_none() {
            let dropped = if self.in_flight {
                Some("the future of a statement was dropped before the statement was done")
            } else if self.scope_dropped.as_ref().is_some_and(|dropped| dropped.load(Ordering::Acquire)) {
                Some("the scope of a savepoint was dropped before it was done")
            } else {
                None
            };
            self.over = dropped.map(|what| Failure::new(FailureKind::Aborted, what));
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
        self.ask = None;
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
        let is_ended = |failure: &Failure| failure.kind().ends_session();
        self.in_flight || self.distrusted || self.over.as_ref().is_some_and(is_ended)
    }

    /// Something has ended the transaction unseen, and may have left more on the session than a rollback undoes.
    pub(super) fn distrust_session(&mut self) {
        self.distrusted = true;
    }

    pub(super) fn end(&mut self, failure: Failure) {
        self.over.get_or_insert(failure);
    }

    pub(super) fn mark_unwatched(&mut self) {
        self.touched = true;
    }

    pub(super) fn is_unwatched(&self) -> bool {
        self.touched || self.unread
    }

    /// The text is asked for where somebody watches.
    pub(super) fn begin_statement(&mut self, sql: impl FnOnce() -> SqlStr) {
        self.in_flight = true;
        if let Some(observation) = &self.observation {
            observation.sent(sql());
        }
    }

    /// More is asked for of what the statement has to answer.
    pub(super) fn resume_statement(&mut self) {
        self.in_flight = true;
        if let Some(observation) = &self.observation {
            observation.resumed();
        }
    }

    /// A question of the crate's own is on its way, or was answered: no statement of the unit's, and nobody is told.
    pub(super) fn question(&mut self, on_its_way: bool) {
        self.in_flight = on_its_way;
    }

    /// `complete` says whether all that the server has to say has been read.
    pub(super) fn end_statement<DB: Backend, T>(
        &mut self,
        result: Result<T, sqlx::Error>,
        nowait: bool,
        complete: bool,
    ) -> Result<T, sqlx::Error> {
        self.in_flight = false;
        self.unread = !complete;
        self.last = None;
        let result = result.map_err(|error| self.remember::<DB>(error, nowait));
        if let Some(observation) = &self.observation {
            if complete || result.is_err() {
                observation.answered(self.last.as_ref());
            } else {
                observation.paused();
            }
        }
        result
    }

    fn remember<DB: Backend>(&mut self, error: sqlx::Error, nowait: bool) -> sqlx::Error {
        let Some(failure) = failure_of::<DB>(&error, nowait) else { return error };
        let error = if failure.kind() == FailureKind::LockNotAvailable {
            with_failure(error, &failure)
        } else {
            error
        };
        self.last = Some(failure.clone());
        match DB::after(&failure) {
            Survival::Open => {}
            Survival::Ask(statement) => self.ask = Some(statement),
            Survival::Over => self.end(failure),
        }
        error
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
    journal: &mut Journal,
    connection: &mut DB::Connection,
) -> Result<(), Error> {
    make_sure::<DB>(journal, connection).await;
    match journal.over() {
        Some(failure) => Err(Error::failed(failure.clone(), None)),
        None => Ok(()),
    }
}

/// Asks whether a failed statement has ended the transaction, where nobody can tell without asking.
async fn make_sure<DB: Backend>(journal: &mut Journal, connection: &mut DB::Connection) {
    let Some(statement) = journal.ask.take() else { return };
    journal.begin_statement(|| statement.into_sql_str());
    let reply = DB::send_text(connection, statement.to_owned()).await;
    journal.in_flight = false;
    if let Some(observation) = &journal.observation {
        observation.answered(None);
    }
    if reply.error.is_none() {
        journal.end(Failure::new(
            FailureKind::Aborted,
            "a failed statement had ended the transaction, and another one was about to be run outside of it",
        ));
    }
}

/// Lets a statement pass, or answers why it may not.
pub(super) async fn admit<DB: Backend>(
    journal: &mut Journal,
    connection: &mut DB::Connection,
    query: &WatchedQuery<DB>,
) -> Result<(), sqlx::Error> {
    make_sure::<DB>(journal, connection).await;
    if journal.over().is_none() && ends_transactions(query.sql()) {
        journal.end(Failure::new(
            FailureKind::Aborted,
            "a unit of work must not begin, commit or roll back by itself: what it returns decides",
        ));
    }
    if let Some(failure) = journal.over() {
        return Err(sqlx::Error::Database(Box::new(TransactionOver(failure.clone()))));
    }
    // Several statements in one text: the ones behind the first are not seen.
    if query.is_plain_text() && query.sql().trim_end().trim_end_matches(';').contains(';') {
        journal.mark_unwatched();
    }
    Ok(())
}

fn ends_transactions(sql: &str) -> bool {
    const REFUSED: [&str; 7] = ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE"];
    let mut words = without_leading_comments(sql)
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    let Some(first) = words.next() else { return false };
    match REFUSED.iter().find(|word| word.eq_ignore_ascii_case(first)) {
        // ROLLBACK TO a savepoint stays inside; so does everything that is STARTed or PREPAREd but a
        // transaction.
        Some(&"ROLLBACK") => !words.any(|word| word.eq_ignore_ascii_case("TO")),
        Some(&("START" | "PREPARE")) => {
            words.next().is_some_and(|word| word.eq_ignore_ascii_case("TRANSACTION"))
        }
        Some(_) => true,
        None => false,
    }
}

fn without_leading_comments(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start();
        let rest = if let Some(rest) = sql.strip_prefix("--") {
            rest.split_once('\n').map(|(_, rest)| rest)
        } else if let Some(rest) = sql.strip_prefix("/*") {
            rest.split_once("*/").map(|(_, rest)| rest)
        } else {
            return sql;
        };
        sql = rest.unwrap_or_default();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("over", &self.over)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_end_transactions_are_known() {
        for sql in [
            "COMMIT",
            " commit ;",
            "Rollback",
            "BEGIN IMMEDIATE",
            "end",
            "abort",
            "START TRANSACTION",
            "-- why\n/* so */ COMMIT AND CHAIN",
            "ROLLBACK WORK",
            "PREPARE TRANSACTION 'x'",
        ] {
            assert!(ends_transactions(sql), "{sql}");
        }
        for sql in [
            "",
            "SELECT 1",
            "UPDATE commit SET end = 1",
            "ROLLBACK TO SAVEPOINT a",
            "ROLLBACK WORK TO a",
            "SAVEPOINT a",
            "START SLAVE",
            "PREPARE x AS SELECT 1",
            "committed",
            "-- COMMIT",
            "/* COMMIT",
        ] {
            assert!(!ends_transactions(sql), "{sql}");
        }
    }

    #[test]
    fn the_first_failure_is_the_cause() {
        let mut journal = Journal::default();
        journal.end(Failure::new(FailureKind::Deadlock, "first"));
        journal.end(Failure::new(FailureKind::Aborted, "consequence"));
        assert_eq!(journal.over().map(Failure::kind), Some(FailureKind::Deadlock));
    }
}
