//! Checks a transaction before it ends: for statements that the crate did not see, and for deadlocks.

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::transactor::Decision;
use crate::transactor::deadline::Timer;
use crate::tx::{Tx, Unwatched, identity};

/// Checks what statements that the crate did not see have done to the transaction. `converted` is the
/// failure that the unit has converted to an error of its own.
///
/// A failure that certainly ends the transaction is recorded in `tx`; one that only the commit can confirm
/// is returned.
pub(super) async fn unseen<DB: Backend>(
    tx: &mut Tx<DB>,
    decision: Decision,
    converted: Option<Failure>,
) -> Option<Unwatched> {
    let converted = converted.filter(Tx::<DB>::ends_with);
    if decision == Decision::Commit && tx.over().is_none() {
        let failure = converted?;
        // On databases where a transaction survives a conflict, the commit would succeed.
        if !DB::EVERY_ERROR_ABORTS && failure.kind().is_conflict() {
            tx.end(failure.clone());
        }
        return Some(Unwatched::Failed(failure));
    }
    let found = tx.check_unwatched(converted).await;
    if let Unwatched::Failed(failure) = &found {
        tx.end(failure.clone());
    }
    Some(found)
}

/// Adds a report to a deadlock, with the units that took part in it, if the run is observed.
pub(super) async fn explained<DB: Backend>(
    failure: Failure,
    tx: &mut Tx<DB>,
    pool: &Pool<DB>,
    timer: &Timer,
) -> Failure {
    let Some(observation) = timer.observation.as_ref().filter(|_| failure.kind() == FailureKind::Deadlock)
    else {
        return failure;
    };
    // Boxed, because in place it would enlarge the future of every run.
    let failure = Box::pin(tx.explain(failure)).await;
    let mut report = failure.deadlock().cloned().unwrap_or_default();
    observation.name_units(&mut report, identity(pool));
    failure.with_deadlock(Some(report))
}
