//! What was last heard of the sessions of a pool and of the server behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    /// The limit for lock waits that a session had of its own.
    lock_timeout: Option<Duration>,
    /// Why a connection was refused last, and when.
    refusal: Option<(Instant, String)>,
}

impl Known {
    pub(super) fn lock_timeout(&self) -> Option<Duration> {
        self.facts().lock_timeout
    }

    pub(super) fn learn_lock_timeout(&self, own: Option<Duration>) {
        self.facts().lock_timeout = own;
    }

    /// Why a connection was refused since this time.
    pub(super) fn refusal_since(&self, since: Instant) -> Option<String> {
        self.facts().refusal.as_ref().filter(|(at, _)| *at >= since).map(|(_, reason)| reason.clone())
    }

    pub(super) fn refused(&self, reason: String) {
        self.facts().refusal = Some((Instant::now(), reason));
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
