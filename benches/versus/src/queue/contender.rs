//! What each queue is asked to do.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use async_trait::async_trait;
use tokio::sync::watch;

/// A queue in the way that its documentation shows, with jobs whose handler does nothing but to be counted.
#[async_trait]
pub(super) trait Contender: Send + Sync {
    fn name(&self) -> &'static str;

    /// How many jobs it may be asked to enqueue at once.
    fn enqueues(&self) -> &'static [usize];

    /// How many jobs it may be asked to take at once.
    fn takes(&self) -> &'static [usize];

    /// Puts jobs into the queue, all of them in one transaction.
    async fn enqueue(&self, jobs: usize) -> Result<()>;

    /// Works on jobs, taking so many at once, until it is told to stop.
    async fn work(&self, batch: usize, handled: &'static Handled, stop: watch::Receiver<bool>) -> Result<()>;

    /// How many jobs are neither done nor failed.
    async fn left(&self) -> Result<i64>;

    /// Begins anew, without dead rows.
    async fn clear(&self) -> Result<()>;
}

/// How often a handler was called.
#[derive(Debug, Default)]
pub(super) struct Handled {
    count: AtomicUsize,
    first: OnceLock<Instant>,
}

impl Handled {
    pub(super) fn one(&self) {
        self.first.get_or_init(Instant::now);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// When it was called first.
    pub(super) fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }
}
