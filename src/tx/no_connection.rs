//! Why a run has no transaction: what the pool and the server did while it waited.

use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::{identity, refusal_since};
use crate::backend::{Backend, failure_or_other};
use crate::failure::{Failure, FailureKind, with_causes};

/// A server is asked every now and then, not only by the run that waits: this old may an answer be.
const REFUSAL_IS_NEWS: Duration = Duration::from_secs(1);

/// The failure of a run that got no connection. Nothing was run, so any I/O error is worth another attempt.
pub(crate) fn not_connected<DB: Backend>(pool: &Pool<DB>, since: Instant, error: &sqlx::Error) -> Failure {
    let address = DB::address(&pool.connect_options());
    match error {
        sqlx::Error::PoolTimedOut => {
            let limit = pool.options().get_acquire_timeout();
            unavailable(format!(
                "no connection within the pool's acquire_timeout of {limit:?}: {}",
                what_the_pool_did(pool, since)
            ))
        }
        sqlx::Error::PoolClosed => Failure::new(
            FailureKind::Other,
            "the pool is closed, and hands out no connections any more; let the units end before it is \
             closed",
        ),
        sqlx::Error::Io(error) => {
            unavailable(format!("could not connect to {address}: {}", with_causes(error)))
        }
        error => failure_or_other::<DB>(error)
            .in_context(&format!("could not connect to {address}"))
            .with_note("check the pool's URL"),
    }
}

/// What the deadline was spent on while there was no transaction yet; `connected` says whether there was a
/// connection.
pub(crate) fn cut_short<DB: Backend>(pool: &Pool<DB>, since: Instant, connected: bool) -> Failure {
    if connected {
        let address = DB::address(&pool.connect_options());
        return unavailable(format!("{address} accepted a connection, and did not answer BEGIN"));
    }
    unavailable(what_the_pool_did(pool, since))
}

fn unavailable(message: String) -> Failure {
    Failure::new(FailureKind::Unavailable, message).retryable(true).definite(false)
}

fn what_the_pool_did<DB: Backend>(pool: &Pool<DB>, since: Instant) -> String {
    let (open, most) = (pool.size(), pool.options().get_max_connections());
    let address = DB::address(&pool.connect_options());
    let since = since.checked_sub(REFUSAL_IS_NEWS).unwrap_or(since);
    match refusal_since(identity(pool), since) {
        Some(reason) => {
            format!(
                "could not connect to {address}: {reason} (pool: {open} of {most} connections open); check \
                 that the \
                 server runs, and that it listens there"
            )
        }
        None if is_used_up(pool) => format!(
            "all {most} connections of the pool stayed in use; hold them for less time, or raise its \
             max_connections"
        ),
        None => format!(
            "{address} did not accept a connection (pool: {open} of {most} connections open, {} idle)",
            pool.num_idle()
        ),
    }
}

/// Whether each connection that the pool may have is in somebody's hands.
pub(crate) fn is_used_up<DB: Backend>(pool: &Pool<DB>) -> bool {
    pool.size() >= pool.options().get_max_connections() && pool.num_idle() == 0
}
