//! Connections that the next run reuses without the pool, and the effect on the pool and its other users.
//!
//! The tests run on one thread, so that a background task of a run starts only when the test awaits
//! something.

pub(crate) mod endings;
pub(crate) mod next_run;
pub(crate) mod pool_users;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;

use super::increments::{counter, increment};
use crate::support::{TestBackend, TestPool, eventually};

/// Distinguishes slow from never, even on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The documented maximum number of runs that one connection serves in a row.
const MAX_RUNS: u32 = 32;

/// A pool of one connection that counts how often connections are opened, and how often they return to the
/// pool.
struct CountingPool<DB: TestBackend> {
    pool: Pool<DB>,
    opened: Arc<AtomicU32>,
    returned: Arc<AtomicU32>,
    direct: TestPool<DB>,
}

impl<DB: TestBackend> CountingPool<DB> {
    async fn new() -> Self {
        let direct = counter::<DB>(1).await;
        let [opened, returned] = [Arc::<AtomicU32>::default(), Arc::default()];
        let [opens, returns] = [opened.clone(), returned.clone()];
        let pool = PoolOptions::<DB>::new()
            .max_connections(1)
            .after_connect(move |_, _| {
                opens.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Ok(()) })
            })
            .after_release(move |_, _| {
                returns.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Ok(true) })
            });
        let pool = pool.connect(&direct.url).await.expect("a pool");
        Self { pool, opened, returned, direct }
    }

    fn returned(&self) -> u32 {
        self.returned.load(Ordering::Relaxed)
    }

    /// Repeats the attempt until no connection returned to the pool during it: on a slow machine the reuse
    /// may time out.
    async fn until_no_connection_returns<T>(&self, mut attempt: impl AsyncFnMut() -> T) -> T {
        for _ in 0..100 {
            eventually(1, async || self.pool.num_idle()).await;
            let before = self.returned();
            let result = attempt().await;
            if self.returned() == before {
                return result;
            }
        }
        panic!("no connection was reused in 100 attempts");
    }
}

/// Runs a unit that holds its connection until `end` is notified.
async fn run_until_notified<DB: TestBackend>(db: &PoolTransactor<DB, Pessimistic>, end: &Notify) {
    let held = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        end.notified().await;
        Ok::<_, Error>(())
    });
    held.await.expect("a commit");
}

/// Waits until the only connection is in use, so that the next run has to wait for it.
async fn wait_until_in_use<DB: TestBackend>(pool: &Pool<DB>) {
    eventually(true, async || pool.size() == 1 && pool.num_idle() == 0).await;
}
