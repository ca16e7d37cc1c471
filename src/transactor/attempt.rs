//! One attempt at a unit of work, or at a single statement.

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::transactor::options::Options;
use crate::tx::{Tx, is_used_up};

mod opening;
mod statement;
mod gate_stage;
mod prior_commit;
mod transaction;
mod commit_lookup;
mod ending;
mod unseen;

pub(super) use statement::{Sending, StatementAttempts, StatementTarget, sending};
pub(super) use transaction::UnitAttempts;

/// Returns a failure that explains what a unit without a statement in flight may have waited for: a second
/// connection of a pool that has none left.
fn waited_for_the_pool<DB: Backend>(pool: &Pool<DB>, tx: &Tx<DB>) -> Option<Failure> {
    (!tx.is_in_flight() && is_used_up(pool)).then(|| {
        let max = pool.options().get_max_connections();
        let message = format!(
            "the unit waited for something else than its own statement while all {max} connections of the \
             pool were in use: if it asked for a second one, run those queries on `tx`"
        );
        Failure::new(FailureKind::Unavailable, message).retryable(true)
    })
}

/// Returns whether an attempt may open its transaction before its turn at the gate: only if no other run
/// waits for a connection.
///
/// Otherwise a run that waits for its turn with the last connection of the pool could block the unit that it
/// waits for, which needs a connection. The test kit gives each client a connection and needs reproducible
/// runs, so the state of the pool is ignored there.
fn has_room_to_wait_inside<DB: Backend>(pool: &Pool<DB>, options: &Options) -> bool {
    let is_intercepted = !options.interceptors().is_empty();
    pool.options().get_max_connections() > MAX_WITHOUT_ROOM && (is_intercepted || !is_used_up(pool))
}

/// The maximum pool size at which the runs that wait at the gate could hold all connections.
const MAX_WITHOUT_ROOM: u32 = 2;
