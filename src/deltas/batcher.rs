//! What carries batches to the database, one after another, while there are any.

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

/// How often other tasks are given a turn before a batch departs: a stream of calls that never ends is no
/// reason to wait.
const MAX_YIELDS: u32 = 16;

/// After so long a batch waits for something, and calls that have nothing to do with it are not to wait
/// along.
const LONG: Duration = Duration::from_millis(5);

/// What the handles and the flights share.
pub(super) struct Shared<DB: Backend, K> {
    pub(super) transactor: PoolTransactor<DB, Pessimistic>,
    pub(super) settings: Settings,
    single_statement: SingleStatement<DB, K>,
    queue: Mutex<Pending<K>>,
    /// Ends with the last handle.
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

    /// Whoever panicked with the lock in hand (a key's `Ord`) has not left the queue half-done.
    pub(super) fn queue(&self) -> MutexGuard<'_, Pending<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deadline(&self, started: Instant) -> Instant {
        let far = Duration::from_secs(60 * 60 * 24 * 365);
        started.checked_add(self.settings.options.time()).unwrap_or_else(|| started + far)
    }
}

/// A flight: the right to have a batch on its way.
pub(super) struct Batcher<DB: Backend, K: Key<DB>> {
    shared: Arc<Shared<DB, K>>,
    stage: BatchKeys<K>,
    over: bool,
}

impl<DB: Backend, K: Key<DB> + 'static> Batcher<DB, K> {
    /// Starts a flight that the queue has counted.
    pub(super) fn start(shared: &Arc<Shared<DB, K>>, runtime: &Handle) {
        // Made before the task is: a runtime that is shutting down drops what it is given.
        let batcher = Self { shared: shared.clone(), stage: BatchKeys::default(), over: false };
        runtime.spawn(async move {
            let mut gone = batcher.shared.gone.clone();
            // With the last handle, the last one who could be answered has gone.
            select(pin!(batcher.run()), pin!(gone.changed())).await;
        });
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let Some(calls) = self.take_batch() else { return };
            let shared = self.shared.clone();
            let mut flying = pin!(run_batch(&shared, calls));
            if timeout(LONG, &mut flying).await.is_err() {
                self.is_late();
                flying.await;
            }
        }
    }

    /// Those who wait, and for something else than this flight does, are taken by another one.
    fn is_late(&mut self) {
        self.stage.is_late = true;
        if self.shared.queue().is_late(&self.shared.settings) {
            Self::start(&self.shared, &Handle::current());
        }
    }

    /// Those who were just answered, and want the next thing, are let in before the doors close: as long as
    /// the other tasks, each given its turn, bring calls.
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
        let calls = self.shared.queue().take_batch(&mut self.stage);
        self.over = calls.is_none();
        calls
    }
}

/// Panics, and runtimes that are shut down.
impl<DB: Backend, K: Key<DB>> Drop for Batcher<DB, K> {
    fn drop(&mut self) {
        if !self.over {
            let stranded = self.shared.queue().abandon(&mut self.stage);
            drop(stranded);
        }
    }
}

/// Carries calls to their commit: in one round trip, or in a transaction, or in halves where the database
/// refuses some of them.
async fn run_batch<DB: Backend, K: Key<DB>>(shared: &Shared<DB, K>, calls: Vec<Call<K>>) {
    let Shared { single_statement, transactor, settings, .. } = shared;
    let mut parts = vec![single_statement.take(transactor, &settings.bounds, calls).await];
    while let Some(calls) = parts.pop() {
        let Some(deadline) = calls.iter().map(|call| call.deadline).max() else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut batch = Batch::new(settings, calls);
        let ended = transactor.transact(&Options::new().deadline(left), &mut batch).await;
        match batch.end(ended) {
            Ok(answers) => {
                for (call, outcome) in answers {
                    call.answer(outcome);
                }
            }
            Err((mut calls, error)) if calls.len() > 1 && refuses_a_part(error.kind()) => {
                let later = calls.split_off(calls.len() / 2);
                parts.extend([later, calls]);
            }
            Err((calls, error)) => {
                for call in calls {
                    call.answer(Err(error.duplicate()));
                }
            }
        }
    }
}

/// Whether some of the calls may be stored when others are left out.
fn refuses_a_part(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Constraint | ErrorKind::Database | ErrorKind::Aborted)
}
