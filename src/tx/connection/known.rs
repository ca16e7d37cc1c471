//! What was last heard of the sessions of a pool and of the server behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    /// The limit for lock waits that a session had of its own.
    lock_timeout: Option<Duration>,
}

impl Known {
    pub(super) fn lock_timeout(&self) -> Option<Duration> {
        self.facts().lock_timeout
    }

    pub(super) fn learn_lock_timeout(&self, own: Option<Duration>) {
        self.facts().lock_timeout = own;
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
