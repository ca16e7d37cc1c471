//! What is found out about a transaction before it ends.

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::transactor::Decision;
use crate::transactor::deadline::Timer;
use crate::tx::{Tx, Unwatched, identity};

/// What became of a transaction in statements that were not seen, `converted` being what the unit has said of
/// them. A failure that certainly ends the transaction has ended it; one that only the commit can confirm is
/// returned.
pub(super) async fn unseen<DB: Backend>(
    tx: &mut Tx<DB>,
    decision: Decision,
    converted: Option<Failure>,
) -> Option<Unwatched> {
    let converted = converted.filter(Tx::<DB>::ends_with);
    if decision == Decision::Commit && tx.over().is_none() {
        let failure = converted?;
        // Where a transaction survives its conflicts, the commit would go through.
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

/// Those who watch are told of a deadlock which units it was between.
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
    // In a box of its own: in place, it would be in the future of every run.
    let failure = Box::pin(tx.explain(failure)).await;
    let mut report = failure.deadlock().cloned().unwrap_or_default();
    observation.name_units(&mut report, identity(pool));
    failure.with_deadlock(Some(report))
}
