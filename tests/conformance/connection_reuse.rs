//! Connections that the next run takes over without the pool, and what the pool and its other users see of
//! it.
//!
//! The tests run on one thread, so that a task that a run leaves in the background begins only when the test
//! awaits something.

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

/// Only to tell "in time" from "never", on the busiest of machines.
const FOR_EVER: Duration = Duration::from_secs(20);

/// What documentation says that a connection serves at most.
const MAX_RUNS: u32 = 32;

/// A pool of one connection that counts how often connections are opened, and how often they come back.
struct Counting<DB: TestBackend> {
    pool: Pool<DB>,
    opened: Arc<AtomicU32>,
    returned: Arc<AtomicU32>,
    direct: TestPool<DB>,
}

impl<DB: TestBackend> Counting<DB> {
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

    /// Tries until no connection came back to the pool meanwhile: which one does after a while, on a slow
    /// machine.
    async fn without_a_return<T>(&self, mut attempt: impl AsyncFnMut() -> T) -> T {
        for _ in 0..100 {
            eventually(1, async || self.pool.num_idle()).await;
            let before = self.returned();
            let result = attempt().await;
            if self.returned() == before {
                return result;
            }
        }
        panic!("no connection was handed on in 100 attempts");
    }
}

/// A run that holds the connection until it is told to end.
async fn hold<DB: TestBackend>(db: &PoolTransactor<DB, Pessimistic>, end: &Notify) {
    let held = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        end.notified().await;
        Ok::<_, Error>(())
    });
    held.await.expect("a commit");
}

/// The connection is in use, and whoever comes now has to wait.
async fn in_use<DB: TestBackend>(pool: &Pool<DB>) {
    eventually(true, async || pool.size() == 1 && pool.num_idle() == 0).await;
}
