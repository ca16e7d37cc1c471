//! Caches what a transactor knows about the server behind its pool.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Pool;

use super::engine_cache::{EngineCache, EngineCacheOfPool};
use crate::backend::Backend;

/// The cache, shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct ServerCache {
    sessions: Arc<Mutex<SessionFacts>>,
    engines: EngineCacheOfPool,
}

/// What is known about the sessions of the server.
#[derive(Default)]
struct SessionFacts {
    lock_timeout: Option<Duration>,
    /// Whether sessions are to keep statements prepared; `None` until one could be kept.
    keeps_prepared: Option<bool>,
}

impl ServerCache {
    /// Returns the cache of the engines, which all transactors on the pool share.
    pub(super) fn engines<DB: Backend>(&self, pool: &Pool<DB>) -> &EngineCache {
        self.engines.get(pool)
    }

    /// Returns the lock timeout that a session had before a transaction changed it; `None` if it had none, or
    /// if that is not known.
    pub(super) fn lock_timeout(&self) -> Option<Duration> {
        self.locked().lock_timeout
    }

    pub(super) fn set_lock_timeout(&self, timeout: Option<Duration>) {
        self.locked().lock_timeout = timeout;
    }

    /// Returns whether sessions are to keep statements prepared under names of this crate; `None` until a
    /// statement could have been kept.
    pub(super) fn keeps_prepared(&self) -> Option<bool> {
        self.locked().keeps_prepared
    }

    /// Records that statements are used that a session could keep prepared.
    pub(super) fn keep_prepared(&self) {
        self.locked().keeps_prepared.get_or_insert(true);
    }

    /// Records that a session was not the one that had prepared a statement: a pooler is in between.
    pub(super) fn distrust_prepared(&self) {
        self.locked().keeps_prepared = Some(false);
    }

    fn locked(&self) -> MutexGuard<'_, SessionFacts> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
