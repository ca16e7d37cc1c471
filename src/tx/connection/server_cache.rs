//! Caches what a transactor knows about the server behind its pool.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Engine;

/// How long the engine is cached. The address of a pool may lead to another server later, for example when a
/// standalone server is replaced by a cluster; one query every five seconds costs almost nothing.
const ENGINE_LIFETIME: Duration = Duration::from_secs(5);

/// The cache, shared by all clones of a transactor.
#[derive(Clone, Default)]
pub(super) struct ServerCache(Arc<Mutex<Cached>>);

#[derive(Default)]
struct Cached {
    engine: Option<(Instant, Engine)>,
    lock_timeout: Option<Duration>,
    /// Whether sessions are to keep statements prepared; `None` until one could be kept.
    keeps_prepared: Option<bool>,
}

impl ServerCache {
    pub(super) fn engine(&self) -> Option<Engine> {
        let engine = self.cached().engine;
        engine.filter(|(since, _)| since.elapsed() < ENGINE_LIFETIME).map(|(_, engine)| engine)
    }

    pub(super) fn set_engine(&self, engine: Engine) {
        self.cached().engine = Some((Instant::now(), engine));
    }

    /// Returns the lock timeout that a session had before a transaction changed it; `None` if it had none, or
    /// if that is not known.
    pub(super) fn lock_timeout(&self) -> Option<Duration> {
        self.cached().lock_timeout
    }

    pub(super) fn set_lock_timeout(&self, timeout: Option<Duration>) {
        self.cached().lock_timeout = timeout;
    }

    /// Returns whether sessions are to keep statements prepared under names of this crate; `None` until a
    /// statement could have been kept.
    pub(super) fn keeps_prepared(&self) -> Option<bool> {
        self.cached().keeps_prepared
    }

    /// Records that statements are used that a session could keep prepared.
    pub(super) fn keep_prepared(&self) {
        self.cached().keeps_prepared.get_or_insert(true);
    }

    /// Records that a session was not the one that had prepared a statement: a pooler is in between.
    pub(super) fn distrust_prepared(&self) {
        self.cached().keeps_prepared = Some(false);
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn caches_the_engine_for_five_seconds() {
        let cache = ServerCache::default();
        assert_eq!(cache.engine(), None);
        let galera = Engine { is_mariadb: true, is_galera: true, ..Engine::default() };
        cache.set_engine(galera);
        tokio::time::advance(ENGINE_LIFETIME - Duration::from_millis(1)).await;
        assert_eq!(cache.clone().engine(), Some(galera));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(cache.engine(), None);
    }
}
