//! Explains why a run could not acquire a connection: what the pool and the server did while it waited.

use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use super::{RefusedConnection, identity, is_opening, refusal_since};
use crate::backend::{Backend, failure_or_other};
use crate::failure::{Failure, FailureKind, with_causes};

/// How much older than the wait a refusal may be, since one record serves all runs of the pool.
const MAX_REFUSAL_AGE: Duration = Duration::from_secs(1);

/// Returns the failure of a run that could not acquire a connection. No statement was sent, so any I/O error
/// is retryable.
pub(crate) fn not_connected<DB: Backend>(pool: &Pool<DB>, since: Instant, error: &sqlx::Error) -> Failure {
    let address = DB::address(&pool.connect_options());
    match error {
        sqlx::Error::PoolTimedOut => {
            let limit = pool.options().get_acquire_timeout();
            unavailable(format!(
                "no connection within the pool's acquire_timeout of {limit:?}: {}",
                explain_wait(pool, since)
            ))
        }
        sqlx::Error::PoolClosed => {
            Failure::new(FailureKind::Other, "the pool is closed; close it only after all units have ended")
        }
        sqlx::Error::Io(error) => {
            unavailable(format!("could not connect to {address}: {}", with_causes(error)))
        }
        error => {
            let failure =
                failure_or_other::<DB>(error).in_context(&format!("could not connect to {address}"));
            // A server that has too many sessions, or is starting, was reached.
            let is_reached = DB::SESSION_ID_QUERY.is_some() && failure.kind() == FailureKind::Unavailable;
            if is_reached { failure } else { failure.with_note("check the pool's URL") }
        }
    }
}

/// Returns the failure of a run whose deadline passed before its transaction was open. `connected` says
/// whether it had a connection.
pub(crate) fn cut_short<DB: Backend>(pool: &Pool<DB>, since: Instant, connected: bool) -> Failure {
    let address = DB::address(&pool.connect_options());
    match (connected, DB::EMBEDDED) {
        (false, _) => unavailable(explain_wait(pool, since)),
        (true, None) => unavailable(format!("{address} accepted a connection, but did not answer BEGIN")),
        // No server can be down, and BEGIN waits for nothing but the lock. The deadline may pass a moment
        // before the database gives up.
        (true, Some(_)) => passing(FailureKind::Busy, format!("{address} stayed locked")),
    }
}

/// Returns the failure of a caller that has waited for others to use the pool, if the server could not be
/// reached meanwhile.
pub(crate) fn unreachable_since<DB: Backend>(pool: &Pool<DB>, since: Instant) -> Option<Failure> {
    let earliest = since.checked_sub(MAX_REFUSAL_AGE).unwrap_or(since);
    let address = DB::address(&pool.connect_options());
    let is_unreachable =
        is_opening(identity(pool)) || refusal_since(identity(pool), &address, earliest).is_some();
    is_unreachable.then(|| unavailable(explain_wait(pool, since)))
}

fn unavailable(message: String) -> Failure {
    passing(FailureKind::Unavailable, message)
}

fn passing(kind: FailureKind, message: String) -> Failure {
    Failure::new(kind, message).retryable(true).definite(false)
}

fn explain_wait<DB: Backend>(pool: &Pool<DB>, since: Instant) -> String {
    let (open, max) = (pool.size(), pool.options().get_max_connections());
    let address = DB::address(&pool.connect_options());
    let since = since.checked_sub(MAX_REFUSAL_AGE).unwrap_or(since);
    match refusal_since(identity(pool), &address, since) {
        Some(RefusedConnection { reason, by_server }) => {
            let advice = match by_server {
                true => "",
                false => "; check that the server is running and listens on that address",
            };
            format!(
                "could not connect to {address}: {reason} (pool: {open} of {max} connections open){advice}"
            )
        }
        None if is_used_up(pool) && !is_opening(identity(pool)) => format!(
            "all {max} connections of the pool stayed in use; hold them for less time, or raise the pool's \
             max_connections"
        ),
        None if is_opening(identity(pool)) => format!(
            "no connection to {address} was opened in time (pool: {open} of {max} connections open); check \
             that the server answers, and that the pool's `after_connect` succeeds"
        ),
        None => format!(
            "{address} did not accept a connection (pool: {open} of {max} connections open, {} idle)",
            pool.num_idle()
        ),
    }
}

/// Returns whether all connections that the pool may open are in use.
pub(crate) fn is_used_up<DB: Backend>(pool: &Pool<DB>) -> bool {
    pool.size() >= pool.options().get_max_connections() && pool.num_idle() == 0
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn begin_without_an_answer_waits_for_the_lock_of_an_embedded_database() {
        use super::*;

        let pool = Pool::<sqlx::Sqlite>::connect_lazy("sqlite://orders.db").expect("a URL");
        let failure = cut_short(&pool, Instant::now(), true);
        assert_eq!((failure.kind(), failure.is_retryable()), (FailureKind::Busy, true));
        assert_eq!(failure.to_string(), "database busy: orders.db stayed locked");
        assert_eq!(cut_short(&pool, Instant::now(), false).kind(), FailureKind::Unavailable);
    }
}
