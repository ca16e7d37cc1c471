//! The nodes of a failover transactor, and which of them is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use scopeguard::defer;
use sqlx::Pool;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, sleep, timeout};

use super::health::{Health, HealthChecks};
use crate::backend::Backend;

/// How long a return to a preferred node waits for the attempts on the other one, while new attempts wait.
const MAX_DRAIN: Duration = Duration::from_secs(1);

/// When nodes are checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckTimes {
    /// How long an attempt may take before its node is checked, and how long a check may take.
    pub(super) patience: Duration,
    /// How long a node that was left is not checked.
    pub(super) pause: Duration,
}

/// The pools of the nodes in the order of preference, and the one in use.
pub(super) struct Nodes<DB: Backend> {
    pools: Vec<(Pool<DB>, HealthChecks)>,
    current: AtomicUsize,
    /// The time of the last change, or of the last check whether to return.
    since: Mutex<Instant>,
    is_checking: AtomicBool,
    /// Attempts hold it for reading, a return to a preferred node for writing.
    turns: RwLock<()>,
}

impl<DB: Backend> Nodes<DB> {
    pub(super) fn new(pools: impl Iterator<Item = Pool<DB>>) -> Self {
        Self {
            pools: pools.map(|pool| (pool, HealthChecks::default())).collect(),
            current: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            is_checking: AtomicBool::new(false),
            turns: RwLock::default(),
        }
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Acquire)
    }

    /// Waits while a return to a preferred node is in progress.
    pub(super) async fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turns.read().await
    }

    /// Moves on to the next node, unless another attempt has already left this one.
    pub(super) fn leave(&self, node: usize) {
        let next = (node + 1) % self.pools.len();
        if self.current.compare_exchange(node, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.restart_pause();
        }
    }

    /// Connects to the node, and returns its answer.
    pub(super) async fn health(&self, node: usize, limit: Duration) -> Health {
        let (pool, checks) = &self.pools[node];
        checks.join(pool, limit).await
    }

    /// Resolves when the node no longer answers, which is checked at intervals of `patience`.
    pub(super) async fn silence_of(self: Arc<Self>, node: usize, patience: Duration) {
        loop {
            sleep(patience).await;
            if self.health(node, patience).await == Health::Silent {
                return;
            }
        }
    }

    /// Checks in the background whether a node takes writes that precedes the current one, once per
    /// pause, and returns to it.
    pub(super) fn return_to_preferred(self: &Arc<Self>, times: CheckTimes) {
        let is_due = self.current() > 0 && self.since().elapsed() >= times.pause;
        if !is_due || self.is_checking.swap(true, Ordering::AcqRel) {
            return;
        }
        let nodes = self.clone();
        tokio::spawn(async move {
            defer! {
                nodes.restart_pause();
                nodes.is_checking.store(false, Ordering::Release);
            }
            let left = nodes.current();
            for node in 0..left {
                if nodes.health(node, times.patience).await == Health::TakesWrites {
                    // The wait only makes conflicts between the two nodes less likely.
                    let _drained = timeout(MAX_DRAIN, nodes.turns.write()).await;
                    let _ = nodes.current.compare_exchange(left, node, Ordering::AcqRel, Ordering::Acquire);
                    return;
                }
            }
        });
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restart_pause(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}
