//! Caches what a transactor knows about the server behind its pool.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Pool;

use super::engine_cache::{EngineCache, EngineCacheOfPool};
use crate::backend::Backend;

/// The cache, shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct ServerCache {
    lock_timeout: Arc<Mutex<Option<Duration>>>,
    engines: EngineCacheOfPool,
}

impl ServerCache {
    /// Returns the cache of the engines, which all transactors on the pool share.
    pub(super) fn engines<DB: Backend>(&self, pool: &Pool<DB>) -> &EngineCache {
        self.engines.get(pool)
    }

    /// Returns the lock timeout that a session had before a transaction changed it; `None` if it had none, or
    /// if that is not known.
    pub(super) fn lock_timeout(&self) -> Option<Duration> {
        *self.locked()
    }

    pub(super) fn set_lock_timeout(&self, timeout: Option<Duration>) {
        *self.locked() = timeout;
    }

    fn locked(&self) -> MutexGuard<'_, Option<Duration>> {
        self.lock_timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
