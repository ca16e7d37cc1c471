//! The sign of life of a worker.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::Worker;
use crate::events::JobEvent;
use crate::queue::QueueBackend;

/// How often a worker says that it is alive.
const BEAT: Duration = Duration::from_secs(10);

/// Tells a running worker from the others of its queue in this process: the smallest number that is free, so
/// that a worker that is started again has the number of the one that has ended.
#[derive(Debug)]
pub(super) struct Number {
    queue: Arc<str>,
    number: u32,
}

/// The numbers of running workers, by queue.
fn taken() -> MutexGuard<'static, HashMap<Arc<str>, BTreeSet<u32>>> {
    static TAKEN: LazyLock<Mutex<HashMap<Arc<str>, BTreeSet<u32>>>> = LazyLock::new(Mutex::default);
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Number {
    pub(super) fn take(queue: &Arc<str>) -> Self {
        let mut taken = taken();
        let numbers = taken.entry(queue.clone()).or_default();
        let number = (0..).find(|number| !numbers.contains(number)).unwrap_or_default();
        numbers.insert(number);
        Self { queue: queue.clone(), number }
    }

    pub(super) const fn get(&self) -> u32 {
        self.number
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut taken = taken();
        if let Some(numbers) = taken.get_mut(&self.queue) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                taken.remove(&self.queue);
            }
        }
    }
}

impl<DB: QueueBackend> Worker<DB> {
    /// Says again and again that the worker is alive, on the task that does its work. Never ends.
    pub(super) async fn beat(&self, worker: u32) {
        if self.watchers.observers.is_empty() {
            return pending().await;
        }
        loop {
            self.watchers.tell(JobEvent::Heartbeat { worker });
            sleep(BEAT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_the_smallest_number_that_is_free() {
        let queue: Arc<str> = "numbers of workers".into();
        let [first, second] = [Number::take(&queue), Number::take(&queue)];
        assert_eq!((first.get(), second.get()), (0, 1));
        drop(first);
        assert_eq!((Number::take(&queue).get(), Number::take(&"others".into()).get()), (0, 0));
    }
}
