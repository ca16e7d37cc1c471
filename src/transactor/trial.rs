//! What can be tried: a unit of work, or a single statement.

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::{Failure, FailureKind};
use crate::tx::Tx;

mod statement;
mod turn;
mod unit;

pub(super) use statement::{Alone, Sending, StatementTrial, sending};
pub(super) use unit::UnitTrial;

/// What a unit may have waited for that was not its own statement.
fn waited_for_the_pool<DB: Backend>(pool: &Pool<DB>, tx: &Tx<DB>) -> Option<Failure> {
    (!tx.is_in_flight() && all_in_use(pool)).then(|| {
        let most = pool.options().get_max_connections();
        let message = format!(
            "the unit waited for something else than its own statement while all {most} connections of the pool were in \
             use: if it asked for a second one, run those queries on `tx`"
        );
        Failure::new(FailureKind::Unavailable, message).retryable(true)
    })
}

fn all_in_use<DB: Backend>(pool: &Pool<DB>) -> bool {
    pool.size() >= pool.options().get_max_connections() && pool.num_idle() == 0
}

/// Whether a transaction may be opened before its turn at the gate: only with a connection that nobody else waits for.
///
/// One that waits for its turn with the last connection of the pool in hand would wait for a unit that waits for a connection.
fn has_room_to_wait_inside<DB: Backend>(pool: &Pool<DB>) -> bool {
    pool.options().get_max_connections() > MAX_WITHOUT_ROOM && !all_in_use(pool)
}

/// With so many connections, the two that wait for one at work could have them all.
const MAX_WITHOUT_ROOM: u32 = 2;

/// What the deadline was spent on while there was no transaction yet.
fn nobody_answered<DB: Backend>(pool: &Pool<DB>) -> Failure {
    let (open, idle, most) = (pool.size(), pool.num_idle(), pool.options().get_max_connections());
    let message = if all_in_use(pool) {
        format!("all {most} connections of the pool stayed in use")
    } else {
        format!(
            "the server did not let a transaction begin (pool: {open} of {most} connections open, {idle} idle)"
        )
    };
    Failure::new(FailureKind::Unavailable, message).retryable(true)
}
