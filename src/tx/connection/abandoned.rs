//! Connections whose server may be busy with a statement that nobody waits for any more.

use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::FAREWELL_LIMIT;
use super::places::Places;
use crate::backend::Backend;
use crate::tx::identity;

/// For how long a server is waited for. It may have fallen silent for good.
pub(super) const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// Waits in the background until the server is done with whatever it is busy with, and closes the connection.
///
/// Its place in the pool is free at once, as long as there are [places](Places) beyond the pool's maximum.
/// Otherwise it keeps its place in the pool.
///
/// # Why any beyond the maximum?
///
/// A server that has fallen silent, or a lock that is held for long, would have every place of a small pool
/// taken by those who gave up.
///
/// # Why not close it at once?
///
/// That ends no statement. One that waits for a lock goes on waiting in a session of the server that no pool
/// counts, and callers that give up soon and often on one locked row fill the server with such sessions.
pub(super) fn close_when_done<DB: Backend>(
    connection: PoolConnection<DB>,
    pool: &Pool<DB>,
    runtime: &Handle,
) {
    match Places::of(identity(pool)).for_abandoned() {
        Some(place) => {
            let mut connection = connection.detach();
            runtime.spawn(async move {
                wait_until_done::<DB>(&mut connection).await;
                let _ = timeout(FAREWELL_LIMIT, connection.close()).await;
                drop(place);
            });
        }
        None => {
            // A runtime that ends drops its tasks, wherever they are: the pool must not get this one back.
            let entered = runtime.clone();
            let kept = scopeguard::guard(connection, move |connection| {
                let _inside = entered.enter();
                drop(connection.detach());
            });
            runtime.spawn(async move {
                let mut kept = kept;
                wait_until_done::<DB>(&mut kept).await;
                let connection = ScopeGuard::into_inner(kept).detach();
                let _ = timeout(FAREWELL_LIMIT, connection.close()).await;
            });
        }
    }
}

/// The answer to a rollback comes behind that to everything before it.
async fn wait_until_done<DB: Backend>(connection: &mut DB::Connection) {
    let _ = timeout(SERVER_LIMIT, DB::send_text(connection, "ROLLBACK".to_owned())).await;
}
