//! The slots of a worker's handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How many more handlers may run at the same time, and how long those that have ended took.
#[derive(Debug)]
pub(super) struct HandlerSlots {
    free: Arc<Semaphore>,
    ended: Arc<EndedHandlers>,
    count: u32,
}

/// The handlers that have ended since they were counted last.
#[derive(Debug, Default)]
struct EndedHandlers {
    count: AtomicU64,
    /// The sum of the times that they took, in nanoseconds.
    nanos: AtomicU64,
}

/// The slot of a running handler. It is free when this value is dropped.
#[derive(Debug)]
pub(super) struct HandlerSlot {
    started: Instant,
    ended: Arc<EndedHandlers>,
    _permit: OwnedSemaphorePermit,
}

impl HandlerSlots {
    pub(super) fn new(handlers: usize) -> Self {
        let count = u32::try_from(handlers.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(count as usize)), ended: Arc::default(), count }
    }

    /// Takes a slot if one is free.
    pub(super) fn take(&self) -> Option<HandlerSlot> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(HandlerSlot { started: Instant::now(), ended: self.ended.clone(), _permit: permit })
    }

    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Returns a value whose methods wait for handlers to end.
    pub(super) fn waiter(&self) -> SlotWaiter {
        SlotWaiter { free: self.free.clone(), count: self.count }
    }

    /// Returns how many handlers have ended since the last call of [`forget_ended`](Self::forget_ended), and
    /// how long they took in total.
    pub(super) fn ended(&self) -> (u64, Duration) {
        let EndedHandlers { count, nanos } = &*self.ended;
        // A handler is counted after its time is added.
        let count = count.load(Ordering::Acquire);
        (count, Duration::from_nanos(nanos.load(Ordering::Acquire)))
    }

    pub(super) fn forget_ended(&self) {
        self.ended.count.store(0, Ordering::Release);
        self.ended.nanos.store(0, Ordering::Release);
    }
}

impl Drop for HandlerSlot {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.ended.nanos.fetch_add(nanos, Ordering::AcqRel);
        self.ended.count.fetch_add(1, Ordering::AcqRel);
    }
}

/// Waits for handlers to end.
#[derive(Debug)]
pub(super) struct SlotWaiter {
    free: Arc<Semaphore>,
    count: u32,
}

impl SlotWaiter {
    /// Waits until a slot is free.
    pub(super) async fn one_is_free(&self) {
        drop(self.free.acquire().await);
    }

    /// Waits until no handler runs.
    pub(super) async fn all_are_free(&self) {
        drop(self.free.acquire_many(self.count).await);
    }
}
