//! Sets a savepoint around a statement that may end its transaction unseen, such as a procedure that commits.
//!
//! The guard savepoint that is set when a transaction opens is checked only when it ends, which may be too
//! late. A conflict in between that rolls everything back also removes the guard, and the unit would be
//! retried although a part of it is stored. A conflict in such a statement itself also removes the savepoint
//! of this module, so it is final.

use sqlx::SqlSafeStr as _;

use crate::backend::{Backend, ProbeSavepoint, failure_or_other};
use crate::failure::FailureKind;

use super::finish::ended_unseen;
use super::state::TxState;

/// Sets the savepoint before such a statement.
pub(super) async fn set<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    let Some(ProbeSavepoint { set, .. }) = DB::PROBE else { return };
    if send::<DB>(state, connection, set).await {
        state.is_probing = true;
    }
}

/// Checks before the next statement whether the savepoint still exists.
pub(super) async fn check<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection) {
    let Some(ProbeSavepoint { release, reset, .. }) = DB::PROBE else { return };
    if state.over().is_some() {
        return;
    }
    if std::mem::take(&mut state.is_probing) {
        send::<DB>(state, connection, release).await;
    }
    // Two packets: see `EngineCluster::Galera`.
    if std::mem::take(&mut state.distrusts_guard)
        && state.over().is_none()
        && send::<DB>(state, connection, DB::GUARD.sql).await
    {
        send::<DB>(state, connection, reset).await;
    }
}

/// Sends a statement and returns whether it succeeded. A failure ends the transaction.
async fn send<DB: Backend>(state: &mut TxState, connection: &mut DB::Connection, sql: &'static str) -> bool {
    state.begin_statement(|| sql.into_sql_str());
    let reply = DB::send_text(connection, sql.to_owned()).await;
    let failure = reply.error.as_ref().map(failure_or_other::<DB>);
    state.set_in_flight(false);
    if let Some(run_clock) = state.run_clock() {
        run_clock.answered(failure.as_ref());
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
