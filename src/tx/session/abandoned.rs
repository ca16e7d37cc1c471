//! Connections whose server may be busy with a statement that nobody waits for any more.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use scopeguard::ScopeGuard;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::FAREWELL_LIMIT;
use crate::backend::Backend;
use crate::tx::identity;

/// So many abandoned connections of a pool may be open beyond its maximum. Further ones keep their places in
/// the pool until the server is done with them.
///
/// # Why any at all?
///
/// A server that has fallen silent, or a lock that is held for long, would have every place of a small pool
/// taken by those who gave up.
const MAX_BEYOND_POOL: usize = 8;

/// For how long a server is waited for. It may have fallen silent for good.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// Waits in the background until the server is done with whatever it is busy with, and closes the connection.
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
    match beyond(identity(pool)).try_acquire_owned() {
        Ok(permit) => {
            let mut connection = connection.detach();
            runtime.spawn(async move {
                wait_until_done::<DB>(&mut connection).await;
                let _ = timeout(FAREWELL_LIMIT, connection.close()).await;
                drop(permit);
            });
        }
        Err(_) => {
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

/// The places beyond the maximum of this pool, which all transactors on it share.
fn beyond(pool: usize) -> Arc<Semaphore> {
    static BEYOND: LazyLock<Mutex<HashMap<usize, Weak<Semaphore>>>> = LazyLock::new(Mutex::default);
    let mut pools = BEYOND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = pools.get(&pool).and_then(Weak::upgrade) {
        return known;
    }
    // Those that nobody is in any more are as good as new ones.
    pools.retain(|_, places| places.strong_count() > 0);
    let places = Arc::new(Semaphore::new(MAX_BEYOND_POOL));
    pools.insert(pool, Arc::downgrade(&places));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactors_on_one_pool_share_the_places_while_any_is_taken() {
        let first = beyond(1).try_acquire_owned().expect("a place");
        assert_eq!(beyond(1).available_permits(), MAX_BEYOND_POOL - 1);
        assert_eq!(beyond(2).available_permits(), MAX_BEYOND_POOL);
        drop(first);
        assert_eq!(beyond(1).available_permits(), MAX_BEYOND_POOL);
    }
}
