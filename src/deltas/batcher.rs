//! The background task that runs batches one after another while there are calls.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::backend::{Backend, Key};
use crate::error::ErrorKind;
use crate::strategies::Pessimistic;
use crate::transactor::{Options, PoolTransactor, Transactor as _};

use super::Settings;
use super::batch::Batch;
use super::pending::{BatchKeys, Call, Pending};
use super::single_statement::SingleStatement;

/// The maximum number of times that a batcher yields to other tasks before it takes a batch, so that an
/// endless stream of calls does not delay it.
const MAX_YIELDS: u32 = 16;

/// The time after which a batch counts as slow, so that another one may start: it probably waits for a
/// lock, and calls on other rows should not wait with it.
const SLOW: Duration = Duration::from_millis(5);

/// The state that handles and batchers share.
pub(super) struct Shared<DB: Backend, K> {
    pub(super) transactor: PoolTransactor<DB, Pessimistic>,
    pub(super) settings: Settings,
    single_statement: SingleStatement<DB, K>,
    queue: Mutex<Pending<K>>,
    /// Closes when the last handle is dropped.
    gone: watch::Receiver<()>,
}

impl<DB: Backend, K: Key<DB>> Shared<DB, K> {
    pub(super) fn new(
        transactor: PoolTransactor<DB, Pessimistic>,
        settings: Settings,
        gone: watch::Receiver<()>,
    ) -> Self {
        let transactor = transactor.options(settings.options.or(&Options::new().named("deltas")));
        let single_statement = SingleStatement::new(&settings);
        Self { transactor, settings, single_statement, queue: Mutex::new(Pending::new()), gone }
    }

    /// Locks the queue, even if the lock is poisoned: a panic in a key's `Ord` leaves the queue consistent.
    pub(super) fn queue(&self) -> MutexGuard<'_, Pending<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one batch after another, until no calls wait.
pub(super) struct Batcher<DB: Backend, K: Key<DB>> {
    shared: Arc<Shared<DB, K>>,
    keys: BatchKeys<K>,
    /// Whether the queue has released the batcher: no calls wait.
    is_done: bool,
}

impl<DB: Backend, K: Key<DB> + 'static> Batcher<DB, K> {
    /// Spawns the task of a batcher that the queue has counted.
    pub(super) fn start(shared: &Arc<Shared<DB, K>>, runtime: &Handle) {
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
            let mut running = pin!(run_batch(&shared, calls));
            if timeout(SLOW, &mut running).await.is_err() {
                self.mark_slow();
                running.await;
            }
        }
    }

    /// Starts another batcher for calls on other rows than those of the running batch, if there are any.
    fn mark_slow(&mut self) {
        if self.shared.queue().mark_slow(&mut self.keys, &self.shared.settings) {
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

    fn take_batch(&mut self) -> Option<Vec<Call<K>>> {
        let calls = self.shared.queue().take_batch(&mut self.keys);
        self.is_done = calls.is_none();
        calls
    }
}

/// After a panic, or when the runtime shuts down, the queue must not count on this batcher any more.
impl<DB: Backend, K: Key<DB>> Drop for Batcher<DB, K> {
    fn drop(&mut self) {
        if !self.is_done {
            // Dropped after the lock is released.
            let stranded = self.shared.queue().abandon(&mut self.keys);
            drop(stranded);
        }
    }
}

/// Runs a batch as a single statement, and then the remaining calls as a transaction, which is split in
/// halves if the database refuses some of them.
async fn run_batch<DB: Backend, K: Key<DB>>(shared: &Shared<DB, K>, calls: Vec<Call<K>>) {
    let Shared { single_statement, transactor, settings, .. } = shared;
    let mut parts = vec![single_statement.apply(transactor, &settings.bounds, calls).await];
    while let Some(calls) = parts.pop() {
        let Some(deadline) = calls.iter().map(|call| call.deadline).max() else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut batch = Batch::new(settings, calls);
        let ended = transactor.transact(&Options::new().deadline(left), &mut batch).await;
        match batch.end(ended) {
            Ok(results) => {
                for (call, result) in results {
                    call.complete(result);
                }
            }
            Err((mut calls, error)) if calls.len() > 1 && refuses_a_part(error.kind()) => {
                let later = calls.split_off(calls.len() / 2);
                parts.extend([later, calls]);
            }
            Err((calls, error)) => {
                for call in calls {
                    call.complete(Err(error.duplicate()));
                }
            }
        }
    }
}

/// Returns whether some of the calls may succeed without the others.
fn refuses_a_part(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Constraint
            | ErrorKind::Database
            | ErrorKind::Aborted
            | ErrorKind::InvalidInput
            | ErrorKind::Decode
    )
}
