//! Closes connections whose last statement may still be running on the server.

use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::CLOSE_LIMIT;
use super::extra::ExtraConnections;
use crate::backend::Backend;
use crate::tx::identity;

/// How long the server may take to finish. If the network was cut, it never does.
pub(super) const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// Waits in the background until the server has finished with the connection's last statement, and closes
/// the connection.
///
/// The pool may open another connection at once, as long as a [permit](ExtraConnections) beyond its maximum
/// is free. Otherwise the connection counts against the pool's maximum until it is closed.
///
/// # Why beyond the maximum?
///
/// A server that does not answer, or a lock that is held for long, would otherwise block a small pool with
/// connections that no run uses any more.
///
/// # Why not close it at once?
///
/// Closing the socket does not end a statement. One that waits for a lock goes on waiting, in a server
/// session that no pool counts. Callers that often give up on one locked row would fill the server with
/// such sessions.
pub(super) fn close_when_done<DB: Backend>(
    connection: PoolConnection<DB>,
    pool: &Pool<DB>,
    runtime: &Handle,
) {
    match ExtraConnections::of(identity(pool)).for_abandoned() {
        Some(permit) => {
            let mut connection = connection.detach();
            runtime.spawn(async move {
                wait_until_done::<DB>(&mut connection).await;
                let _ = timeout(CLOSE_LIMIT, connection.close()).await;
                drop(permit);
            });
        }
        None => {
            // A runtime that shuts down drops the task. Even then the connection must not return to the pool.
            let entered = runtime.clone();
            let guarded = scopeguard::guard(connection, move |connection| {
                let _entered = entered.enter();
                drop(connection.detach());
            });
            runtime.spawn(async move {
                let mut guarded = guarded;
                wait_until_done::<DB>(&mut guarded).await;
                let connection = ScopeGuard::into_inner(guarded).detach();
                let _ = timeout(CLOSE_LIMIT, connection.close()).await;
            });
        }
    }
}

/// Sends a rollback, to which the server responds after everything that was sent before it.
async fn wait_until_done<DB: Backend>(connection: &mut DB::Connection) {
    let _ = timeout(SERVER_LIMIT, DB::send_text(connection, "ROLLBACK".to_owned())).await;
}
