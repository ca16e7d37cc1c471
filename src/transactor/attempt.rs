//! What can be tried: a unit of work, or a single statement.

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::transactor::options::Options;
use crate::tx::{Tx, is_used_up};

mod opening;
mod statement;
mod gate_stage;
mod transaction;
mod unseen;

pub(super) use statement::{Alone, Sending, StatementAttempts, sending};
pub(super) use transaction::UnitAttempts;

/// What a unit may have waited for that was not its own statement.
fn waited_for_the_pool<DB: Backend>(pool: &Pool<DB>, tx: &Tx<DB>) -> Option<Failure> {
    (!tx.is_in_flight() && is_used_up(pool)).then(|| {
        let most = pool.options().get_max_connections();
        let message = format!(
            "the unit waited for something else than its own statement while all {most} connections of the pool were in \
             use: if it asked for a second one, run those queries on `tx`"
        );
        Failure::new(FailureKind::Unavailable, message).retryable(true)
    })
}

/// Whether a transaction may be opened before its turn at the gate: only with a connection that no other run
/// waits for.
///
/// A run that waits for its turn with the last connection of the pool would wait for a unit that waits for a
/// connection. The test kit gives each client a connection, and has to see the same unit go the same way each
/// time, so the state of the pool does not count there.
fn has_room_to_wait_inside<DB: Backend>(pool: &Pool<DB>, options: &Options) -> bool {
    let is_intercepted = !options.interceptors().is_empty();
    pool.options().get_max_connections() > MAX_WITHOUT_ROOM && (is_intercepted || !is_used_up(pool))
}

/// With so many connections, the two that wait for one at work could have them all.
const MAX_WITHOUT_ROOM: u32 = 2;
