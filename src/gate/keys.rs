//! The keys that are in use, with the queues of each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// The number of units inside for each unit that runs, the running one included.
pub(super) const INSIDE: usize = 3;

/// A table of at most this capacity is not shrunk.
pub(super) const MIN_CAPACITY: usize = 64;

/// The keys that are in use.
#[derive(Default)]
pub(super) struct KeyTable {
    by_key: Mutex<HashMap<u64, KeyQueues>>,
    /// Limits the units inside over all keys.
    pub(super) total: Option<Arc<Semaphore>>,
}

/// The queues of one key. Each is a semaphore, which grants its permits in the order of arrival.
pub(super) struct KeyQueues {
    /// One permit, held by the unit that is next to enter. It makes units acquire `room` and the total in the
    /// order of their arrival.
    pub(super) entrance: Arc<Semaphore>,
    /// A permit for each unit inside, which may have its transaction open.
    pub(super) room: Arc<Semaphore>,
    /// A permit for each unit that runs. Not awaited by units that wait for each other in the database.
    pub(super) running: Arc<Semaphore>,
    /// How many units are at the key, inside or waiting.
    pub(super) units: usize,
}

impl KeyQueues {
    pub(super) fn new(width: usize) -> Self {
        let [entrance, room, running] =
            [1, INSIDE * width, width].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { entrance, room, running, units: 0 }
    }
}

impl KeyTable {
    pub(super) fn new(total: Option<usize>) -> Self {
        Self { by_key: Mutex::default(), total: total.map(|total| Arc::new(Semaphore::new(total))) }
    }

    pub(super) fn units_at(&self, key: u64) -> usize {
        self.lock().get(&key).map_or(0, |queues| queues.units)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<u64, KeyQueues>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one unit from its key, and a key without units from the table.
    pub(super) fn remove_unit(&self, key: u64) {
        let mut keys = self.lock();
        if let Entry::Occupied(mut entry) = keys.entry(key) {
            entry.get_mut().units -= 1;
            if entry.get().units == 0 {
                entry.remove();
            }
        }
        if keys.capacity() > MIN_CAPACITY && keys.len() < keys.capacity() / 4 {
            let capacity = keys.len() * 2;
            keys.shrink_to(capacity.max(MIN_CAPACITY / 2));
        }
    }
}
