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
use super::pending::{Call, Queue, Stage};
use super::single_statement::Shortcut;

/// How often other tasks are given a turn before a batch departs: a stream of calls that never ends is no
/// reason to wait.
const MOST_TURNS: u32 = 16;

/// After so long a batch waits for something, and calls that have nothing to do with it are not to wait
/// along.
const LONG: Duration = Duration::from_millis(5);

/// What the handles and the flights share.
pub(super) struct Shared<DB: Backend, K> {
    pub(super) transactor: PoolTransactor<DB, Pessimistic>,
    pub(super) settings: Settings,
    shortcut: Shortcut<DB, K>,
    queue: Mutex<Queue<K>>,
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
        let shortcut = Shortcut::new(&settings);
        Self { transactor, settings, shortcut, queue: Mutex::new(Queue::new()), gone }
    }

    /// Whoever panicked with the lock in hand (a key's `Ord`) has not left the queue half-done.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deadline(&self, started: Instant) -> Instant {
        let far = Duration::from_secs(60 * 60 * 24 * 365);
        started.checked_add(self.settings.options.time()).unwrap_or_else(|| started + far)
    }
}

/// A flight: the right to have a batch on its way.
pub(super) struct Lane<DB: Backend, K: Key<DB>> {
    shared: Arc<Shared<DB, K>>,
    stage: Stage<K>,
    over: bool,
}

impl<DB: Backend, K: Key<DB> + 'static> Lane<DB, K> {
    /// Starts a flight that the queue has counted.
    pub(super) fn start(shared: &Arc<Shared<DB, K>>, runtime: &Handle) {
        // Made before the task is: a runtime that is shutting down drops what it is given.
        let lane = Self { shared: shared.clone(), stage: Stage::default(), over: false };
        runtime.spawn(async move {
            let mut gone = lane.shared.gone.clone();
            // With the last handle, the last one who could be answered has gone.
            select(pin!(lane.run()), pin!(gone.changed())).await;
        });
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let Some(calls) = self.depart() else { return };
            let shared = self.shared.clone();
            let mut flying = pin!(fly(&shared, calls));
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
        for _ in 0..MOST_TURNS {
            yield_now().await;
            let before = std::mem::replace(&mut waiting, self.shared.queue().len());
            if waiting <= before {
                return;
            }
        }
    }

    fn depart(&mut self) -> Option<Vec<Call<K>>> {
        let calls = self.shared.queue().depart(&mut self.stage);
        self.over = calls.is_none();
        calls
    }
}

/// Panics, and runtimes that are shut down.
impl<DB: Backend, K: Key<DB>> Drop for Lane<DB, K> {
    fn drop(&mut self) {
        if !self.over {
            let stranded = self.shared.queue().crash(&mut self.stage);
            drop(stranded);
        }
    }
}

/// Carries calls to their commit: in one round trip, or in a transaction, or in halves where the database
/// refuses some of them.
async fn fly<DB: Backend, K: Key<DB>>(shared: &Shared<DB, K>, calls: Vec<Call<K>>) {
    let Shared { shortcut, transactor, settings, .. } = shared;
    let mut parts = vec![shortcut.take(transactor, &settings.bounds, calls).await];
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
                    call.answer(Err(error.told_again()));
                }
            }
        }
    }
}

/// Whether some of the calls may be stored when others are left out.
fn refuses_a_part(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Constraint | ErrorKind::Database | ErrorKind::Aborted)
}
