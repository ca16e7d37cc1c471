//! Heartbeats of workers.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::Worker;
use crate::backend::Backend;
use crate::events::JobEvent;

/// The time between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(10);

/// Identifies a running worker among those of its queue in this process. It is the smallest number that is
/// free, so that a restarted worker gets the number of the one that ended.
#[derive(Debug)]
pub(super) struct WorkerNumber {
    queue: Arc<str>,
    number: u32,
}

/// The numbers in use, by queue.
fn used() -> MutexGuard<'static, HashMap<Arc<str>, BTreeSet<u32>>> {
    static USED: LazyLock<Mutex<HashMap<Arc<str>, BTreeSet<u32>>>> = LazyLock::new(Mutex::default);
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WorkerNumber {
    pub(super) fn acquire(queue: &Arc<str>) -> Self {
        let mut used = used();
        let numbers = used.entry(queue.clone()).or_default();
        let number = (0..).find(|number| !numbers.contains(number)).unwrap_or_default();
        numbers.insert(number);
        Self { queue: queue.clone(), number }
    }

    pub(super) const fn get(&self) -> u32 {
        self.number
    }
}

impl Drop for WorkerNumber {
    fn drop(&mut self) {
        let mut used = used();
        if let Some(numbers) = used.get_mut(&self.queue) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                used.remove(&self.queue);
            }
        }
    }
}

impl<DB: Backend> Worker<DB> {
    /// Reports heartbeats from the task that claims the jobs. Never returns.
    pub(super) async fn report_heartbeats(&self, worker: u32) {
        if self.reporter.observers.is_empty() {
            return pending().await;
        }
        loop {
            self.reporter.report(JobEvent::Heartbeat { worker });
            sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_the_smallest_number_that_is_free() {
        let queue: Arc<str> = "numbers of workers".into();
        let [first, second] = [WorkerNumber::acquire(&queue), WorkerNumber::acquire(&queue)];
        assert_eq!((first.get(), second.get()), (0, 1));
        drop(first);
        assert_eq!(
            (WorkerNumber::acquire(&queue).get(), WorkerNumber::acquire(&"others".into()).get()),
            (0, 0)
        );
    }
}
