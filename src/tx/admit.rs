//! Decides, before a statement is sent, whether the transaction is still open for it.

use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::backend::{Backend, SyntheticError, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};

use super::admission::{Admission, admission};
use super::probe;
use super::right_of_way::{RightOfWay, gave_way};
use super::state::TxState;

/// Admits a statement of the unit, or returns the failure that ended the transaction.
pub(super) async fn admit<DB: Backend>(
    state: &mut TxState,
    connection: &mut DB::Connection,
    query: &WatchedQuery<DB>,
) -> Result<(), sqlx::Error> {
    check_still_open::<DB>(state, connection).await;
    if state.gives_way_to.as_ref().is_some_and(RightOfWay::is_taken) {
        state.end(gave_way());
    }
    if state.over().is_none() {
        match admission(query, state.ddl_escapes) {
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
                Box::pin(probe::set::<DB>(state, connection)).await;
            }
            Admission::Refused(failure) => state.end(failure),
        }
    }
    if let Some(failure) = state.over() {
        return Err(SyntheticError::TransactionOver(failure.clone()).into());
    }
    state.sent = true;
    Ok(())
}

/// Admits a statement of this crate, or returns the failure that ended the transaction.
pub(super) async fn admit_control<DB: Backend>(
    state: &mut TxState,
    connection: &mut DB::Connection,
) -> Result<(), Error> {
    check_still_open::<DB>(state, connection).await;
    match state.over() {
        Some(failure) => Err(Error::failed(failure.clone(), None)),
        None => Ok(()),
    }
}

/// Asks the server whether an earlier statement has ended the transaction, if its result does not show that.
/// Also releases a savepoint whose release was postponed, so that the statement does not run inside of it.
async fn check_still_open<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    // Boxed, because both are rare and would enlarge the future of every statement.
    if state.is_in_question() {
        Box::pin(ask_if_still_open::<DB>(state, connection)).await;
    }
    if let Some(release) = state.unreleased.take() {
        Box::pin(release_savepoint::<DB>(state, connection, release)).await;
    }
}

/// Sends a postponed release, whose failure ends the transaction.
async fn release_savepoint<DB: Backend>(
    state: &mut TxState,
    connection: &mut DB::Connection,
    release: String,
) {
    if state.over().is_some() {
        return;
    }
    state.begin_statement(|| AssertSqlSafe(release.clone()).into_sql_str());
    let reply = DB::send_text(connection, release).await;
    // The next statement returns the failure.
    let _ = state.end_control::<DB>(reply.error, None);
}

async fn ask_if_still_open<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    probe::check::<DB>(state, connection).await;
    let Some(statement) = state.status_query.take() else { return };
    state.begin_statement(|| statement.into_sql_str());
    let reply = DB::send_text(connection, statement.to_owned()).await;
    state.set_in_flight(false);
    if let Some(run_clock) = state.run_clock() {
        run_clock.answered(None);
    }
    if reply.error.is_none() {
        state.end(Failure::new(
            FailureKind::Aborted,
            "a failed statement had ended the transaction, and another one was about to run outside of it",
        ));
    }
}

/// Returns the failure for a text of several statements on Galera: if the node aborts the transaction between
/// two of them, the second one runs outside of the transaction and is stored.
fn several_on_galera() -> Failure {
    Failure::new(
        FailureKind::Unsupported,
        "several statements in one text were not sent: on a Galera cluster a conflict between two of them \
         would go unnoticed; send them one by one",
    )
}
