//! A queue for units that have deadlocked with each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::options::UnitIdentity;
use crate::tx::RightOfWay;

/// The duration from which a deadlock counts as costly.
///
/// The victim of a cheaper one is simply retried, concurrently with other runs. MySQL and MariaDB detect
/// deadlocks at once, PostgreSQL after its `deadlock_timeout`, one second by default.
pub(super) const COSTLY_DEADLOCK: Duration = Duration::from_millis(50);

/// Retries the victims of costly deadlocks one at a time, for each unit separately. While several victims
/// wait, the other runs of their unit give way: they roll back at their next statement and join the queue.
///
/// # Why?
///
/// Units that lock the same rows in different orders deadlock again and again, and each deadlock blocks all
/// of them until the server detects it. Of sixty units that each update ten rows in a different order, there
/// may be none that commits within ten seconds. If they run one at a time, each takes milliseconds.
///
/// # Why only after deadlocks?
///
/// The order in which a unit locks its rows is a property of its code, so units are identified by the
/// location that started them. While deadlocks are rare, most runs of a unit never wait here.
///
/// A queue is never removed: there are at most as many as there are locations in the program that start
/// units.
#[derive(Debug, Clone, Default)]
pub(super) struct DeadlockQueue(Arc<Mutex<HashMap<UnitIdentity, Arc<UnitQueue>>>>);

/// The queue of one unit.
#[derive(Debug)]
struct UnitQueue {
    semaphore: Arc<Semaphore>,
    victims: RightOfWay,
}

/// A run's position in the queue of its unit. Dropping it admits the next run.
#[derive(Debug)]
pub(super) struct DeadlockPermit {
    queue: Arc<UnitQueue>,
    is_victim: bool,
    waits: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl DeadlockQueue {
    /// Joins the queue of this unit. Only the victim of a deadlock has to wait, or a run that finds several
    /// victims waiting.
    pub(super) fn join(&self, unit: UnitIdentity, is_victim: bool) -> DeadlockPermit {
        let new =
            || Arc::new(UnitQueue { semaphore: Arc::new(Semaphore::new(1)), victims: RightOfWay::default() });
        let queue = self.queues().entry(unit).or_insert_with(new).clone();
        let waits = is_victim || queue.victims.is_taken();
        if is_victim {
            queue.victims.add_victim();
        }
        let permit = if waits { queue.semaphore.clone().try_acquire_owned().ok() } else { None };
        DeadlockPermit { queue, is_victim, waits, permit }
    }

    /// Never poisoned: nothing panics while the lock is held.
    fn queues(&self) -> MutexGuard<'_, HashMap<UnitIdentity, Arc<UnitQueue>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadlockPermit {
    /// Returns whether the run has to [wait](Self::acquire) for the runs in front of it.
    pub(super) const fn must_wait(&self) -> bool {
        self.waits && self.permit.is_none()
    }

    /// Waits for the runs in front, in the order of their arrival.
    ///
    /// # Cancellation
    ///
    /// The run gives up its position in the queue.
    pub(super) async fn acquire(&mut self) {
        // The semaphore is never closed.
        self.permit = self.queue.semaphore.clone().acquire_owned().await.ok();
    }

    /// Returns the count of the victims that a run without a permit gives way to.
    pub(super) fn gives_way_to(&self) -> Option<RightOfWay> {
        self.permit.is_none().then(|| self.queue.victims.clone())
    }
}

impl Drop for DeadlockPermit {
    fn drop(&mut self) {
        if self.is_victim {
            self.queue.victims.remove_victim();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const UNIT: UnitIdentity = UnitIdentity::named("one");
    const OTHER: UnitIdentity = UnitIdentity::named("other");

    #[test]
    fn retries_the_victims_of_one_unit_one_at_a_time() {
        let queue = DeadlockQueue::default();
        let (first, mut second) = (queue.join(UNIT, true), queue.join(UNIT, true));
        assert!(!first.must_wait() && second.must_wait());
        assert!(!queue.join(OTHER, true).must_wait(), "another unit");
        assert!(second.acquire().now_or_never().is_none());
        drop(first);
        assert!(second.acquire().now_or_never().is_some());
        assert!(second.gives_way_to().is_none());
    }

    #[test]
    fn other_runs_give_way_to_a_crowd_of_victims_only() {
        let queue = DeadlockQueue::default();
        let runs = queue.join(UNIT, false);
        let gives_way = || runs.gives_way_to().is_some_and(|way| way.is_taken());
        assert!(!runs.must_wait() && !gives_way());
        let first = queue.join(UNIT, true);
        assert!(!queue.join(UNIT, false).must_wait() && !gives_way(), "a single victim is no crowd");
        let second = queue.join(UNIT, true);
        let behind = queue.join(UNIT, false);
        assert!(behind.must_wait() && gives_way() && !queue.join(OTHER, false).must_wait());
        drop((first, second));
        assert!(
            !queue.join(UNIT, false).must_wait() && !gives_way(),
            "a run that waited behind victims is not a victim"
        );
    }
}
