//! The interface to the queues.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use async_trait::async_trait;
use tokio::sync::watch;

/// A queue, used as its documentation shows, whose handler only counts the jobs.
#[async_trait]
pub(super) trait Contender: Send + Sync {
    fn name(&self) -> &'static str;

    /// The batch sizes for enqueuing.
    fn enqueues(&self) -> &'static [usize];

    /// The batch sizes for claiming.
    fn takes(&self) -> &'static [usize];

    /// Enqueues jobs in one transaction.
    async fn enqueue(&self, jobs: usize) -> Result<()>;

    /// Processes jobs in batches of this size, until it is stopped.
    async fn work(&self, batch: usize, handled: &'static Handled, stop: watch::Receiver<bool>) -> Result<()>;

    /// How many jobs are neither completed nor failed.
    async fn left(&self) -> Result<i64>;

    /// Empties the queue, dead rows included.
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

    /// The time of the first call.
    pub(super) fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }
}
