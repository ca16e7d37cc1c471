//! The background task that runs batches one after another while there are calls.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::pending::{BatchKeys, Pending};
use super::{BatchRunner, Call};

/// The maximum number of times that a batcher yields to other tasks before it takes a batch, so that an
/// endless stream of calls does not delay it.
const MAX_YIELDS: u32 = 16;

/// The time after which a batch counts as slow, so that another one may start: it probably waits for a
/// lock, and calls on other rows should not wait with it.
const SLOW: Duration = Duration::from_millis(5);

/// The state that handles and batchers share.
pub(super) struct Shared<R, K, Q, O> {
    pub(super) runner: R,
    queue: Mutex<Pending<K, Q, O>>,
    /// Closes when the last handle is dropped.
    gone: watch::Receiver<()>,
}

impl<R, K: Ord + Clone, Q, O> Shared<R, K, Q, O> {
    pub(super) fn new(runner: R, gone: watch::Receiver<()>) -> Self {
        Self { runner, queue: Mutex::new(Pending::new()), gone }
    }

    /// Locks the queue, even if the lock is poisoned: a panic in a key's `Ord` leaves the queue consistent.
    pub(super) fn queue(&self) -> MutexGuard<'_, Pending<K, Q, O>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one batch after another, until no calls wait.
pub(super) struct Batcher<R, K: Ord + Clone, Q, O> {
    shared: Arc<Shared<R, K, Q, O>>,
    keys: BatchKeys<K>,
    /// Whether the queue has released the batcher: no calls wait.
    is_done: bool,
}

impl<R, K, Q, O> Batcher<R, K, Q, O>
where
    R: BatchRunner<K, Q, O>,
    K: Ord + Clone + Send + Sync + 'static,
    Q: Send + Sync + 'static,
    O: Send + 'static,
{
    /// Spawns the task of a batcher that the queue has counted.
    pub(super) fn start(shared: &Arc<Shared<R, K, Q, O>>, runtime: &Handle) {
        // Created before the task, so that a runtime that is shutting down drops the batcher, which then
        // notifies the queue.
        let batcher = Self { shared: shared.clone(), keys: BatchKeys::default(), is_done: false };
        runtime.spawn(async move {
            let mut gone = batcher.shared.gone.clone();
            // Without handles there are no callers left.
            select(pin!(batcher.run()), pin!(gone.changed())).await;
        });
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let Some(calls) = self.take_batch() else { return };
            let shared = self.shared.clone();
            let mut running = pin!(shared.runner.run(calls));
            if timeout(SLOW, &mut running).await.is_err() {
                self.mark_slow();
                running.await;
            }
        }
    }

    /// Starts another batcher for calls on other rows than those of the running batch, if there are any.
    fn mark_slow(&mut self) {
        if self.shared.queue().mark_slow(&mut self.keys, self.shared.runner.limits()) {
            Self::start(&self.shared, &Handle::current());
        }
    }

    /// Yields as long as other tasks add calls, so that callers whose call has just returned can add their
    /// next call to the batch.
    async fn gather(&self) {
        let mut waiting = 0;
        for _ in 0..MAX_YIELDS {
            yield_now().await;
            let before = std::mem::replace(&mut waiting, self.shared.queue().len());
            if waiting <= before {
                return;
            }
        }
    }

    fn take_batch(&mut self) -> Option<Vec<Call<K, Q, O>>> {
        let calls = self.shared.queue().take_batch(&mut self.keys);
        self.is_done = calls.is_none();
        calls
    }
}

/// After a panic, or when the runtime shuts down, the queue must not count on this batcher any more.
impl<R, K: Ord + Clone, Q, O> Drop for Batcher<R, K, Q, O> {
    fn drop(&mut self) {
        if !self.is_done {
            // Dropped after the lock is released.
            let stranded = self.shared.queue().abandon(&mut self.keys);
            drop(stranded);
        }
    }
}
