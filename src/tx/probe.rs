//! A savepoint around a statement that may end its transaction unseen: a procedure, say, that commits.
//!
//! The guard that is set when a transaction opens is looked at when it ends. That is too late for what comes
//! in between: a conflict that the database answers by rolling everything back takes the guard along, and the
//! unit would run again although a part of it is stored. For the same reason a conflict that answers such a
//! statement itself is final: the savepoint is gone either way.

use sqlx::SqlSafeStr as _;

use crate::backend::{Backend, ProbeSavepoint, failure_or_other};
use crate::failure::FailureKind;

use super::finish::ended_unseen;
use super::state::TxState;

/// Sets the savepoint, in front of such a statement.
pub(super) async fn set<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    let Some(ProbeSavepoint { set, .. }) = DB::PROBE else { return };
    if send::<DB>(state, connection, set).await {
        state.is_probing = true;
    }
}

/// Looks whether the savepoint is still there, in front of whatever comes next.
pub(super) async fn look<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    let Some(ProbeSavepoint { release, reset, .. }) = DB::PROBE else { return };
    if state.over().is_some() {
        return;
    }
    if std::mem::take(&mut state.is_probing) {
        send::<DB>(state, connection, release).await;
    }
    // In two packets: see `Engine::is_galera`.
    if std::mem::take(&mut state.distrusts_guard)
        && state.over().is_none()
        && send::<DB>(state, connection, DB::GUARD.sql).await
    {
        send::<DB>(state, connection, reset).await;
    }
}

/// Whether the statement succeeded; a failure ends the transaction.
async fn send<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection, sql: &'static str) -> bool {
    state.begin_statement(|| sql.into_sql_str());
    let reply = DB::send_text(connection, sql.to_owned()).await;
    let failure = reply.error.as_ref().map(failure_or_other::<DB>);
    state.question(false);
    if let Some(observation) = state.observation() {
        observation.answered(failure.as_ref());
    }
    let Some(failure) = failure else { return true };
    if failure.kind() == FailureKind::Aborted {
        state.distrust_session();
        state.end(ended_unseen("next statement", Some(&failure)));
    } else {
        state.end(failure);
    }
    false
}
