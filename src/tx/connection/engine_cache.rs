//! Caches which engine answers on a pool.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, Engine};
use crate::tx::nesting::identity;

/// The engines that answer on one pool, shared by all transactors on it for as long as the pool exists.
///
/// The address of a pool may lead to another server later: after a failover, or when a single server is
/// replaced by a cluster. An engine is therefore cached for a limited [time](crate::backend::Product), for
/// the version that the driver has learned when it connected, and for the pool's present options.
#[derive(Debug, Default)]
pub(crate) struct EngineCache {
    cached: Mutex<Vec<Cached>>,
}

/// The options of a pool. They are dropped with the pool, or when it gets others.
type PoolOptions = Arc<dyn Any + Send + Sync>;

#[derive(Debug)]
struct Cached {
    engine: Engine,
    since: Instant,
    /// The version of the servers that have this engine, as the driver shows it.
    version_at_connect: Option<u32>,
    /// The options that the pool had.
    options: Weak<dyn Any + Send + Sync>,
}

/// Looks up the cache of a pool once for each transactor.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineCacheOfPool(Arc<OnceLock<Arc<EngineCache>>>);

impl EngineCacheOfPool {
    pub(super) fn get<DB: Backend>(&self, pool: &Pool<DB>) -> &EngineCache {
        self.0.get_or_init(|| EngineCache::of(pool))
    }
}

impl EngineCache {
    /// Returns the cache of a pool.
    pub(crate) fn of<DB: Backend>(pool: &Pool<DB>) -> Arc<Self> {
        static POOLS: LazyLock<Mutex<HashMap<usize, Arc<EngineCache>>>> = LazyLock::new(Mutex::default);
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pools.get(&identity(pool)) {
            return known.clone();
        }
        // Pools that are gone. The caches of some others may be empty too, and are shared no more then.
        pools.retain(|_, cache| Arc::strong_count(cache) > 1 || cache.is_in_use());
        pools.entry(identity(pool)).or_default().clone()
    }

    /// Returns the engine of servers with this version, if it is known and not too old.
    pub(crate) fn engine(&self, version_at_connect: Option<u32>, lifetime: Duration) -> Option<Engine> {
        let cached = self.cached();
        let mut known = cached.iter().filter(|known| known.version_at_connect == version_at_connect);
        let known = known.find(|known| known.is_of_this_pool() && known.since.elapsed() < lifetime)?;
        Some(known.engine)
    }

    /// Returns the engine that was found last, if that was not too long ago.
    pub(crate) fn latest(&self, lifetime: Duration) -> Option<Engine> {
        let cached = self.cached();
        let known = cached.last()?;
        (known.is_of_this_pool() && known.since.elapsed() < lifetime).then_some(known.engine)
    }

    /// Stores the engine of servers with this version.
    pub(crate) fn store(&self, options: &PoolOptions, version_at_connect: Option<u32>, engine: Engine) {
        let mut cached = self.cached();
        cached.retain(|known| known.is_of_this_pool() && known.version_at_connect != version_at_connect);
        let options = Arc::downgrade(options);
        cached.push(Cached { engine, since: Instant::now(), version_at_connect, options });
    }

    fn is_in_use(&self) -> bool {
        self.cached().iter().any(Cached::is_of_this_pool)
    }

    fn cached(&self) -> MutexGuard<'_, Vec<Cached>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    fn is_of_this_pool(&self) -> bool {
        self.options.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{EngineProduct, EngineVersion};
    use crate::sql_text::Syntax;

    const LIFETIME: Duration = Duration::from_secs(5);

    fn engine(major: u32) -> Engine {
        Engine::new(Syntax::Postgres, EngineProduct::PostgreSql, EngineVersion::new(major, 0, 0))
    }

    fn options() -> PoolOptions {
        Arc::new(())
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_is_cached_for_its_lifetime() {
        let (cache, options) = (EngineCache::default(), options());
        assert_eq!(cache.engine(None, LIFETIME), None);
        cache.store(&options, None, engine(15));
        tokio::time::advance(LIFETIME - Duration::from_millis(1)).await;
        assert_eq!(cache.engine(None, LIFETIME), Some(engine(15)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((cache.engine(None, LIFETIME), cache.latest(LIFETIME)), (None, None));
    }

    /// As after a failover, or behind an address that leads to several servers.
    #[tokio::test]
    async fn a_connection_to_a_server_of_another_version_has_an_engine_of_its_own() {
        let (cache, options) = (EngineCache::default(), options());
        cache.store(&options, Some(150_020), engine(15));
        assert_eq!(cache.engine(Some(180_000), LIFETIME), None);
        cache.store(&options, Some(180_000), engine(18));
        assert_eq!(cache.engine(Some(150_020), LIFETIME), Some(engine(15)));
        assert_eq!(cache.engine(Some(180_000), LIFETIME), Some(engine(18)));
        assert_eq!(cache.latest(LIFETIME), Some(engine(18)));
    }

    #[tokio::test]
    async fn new_options_of_the_pool_have_an_engine_of_their_own() {
        let (cache, options) = (EngineCache::default(), options());
        cache.store(&options, None, engine(15));
        drop(options);
        assert_eq!((cache.engine(None, LIFETIME), cache.latest(LIFETIME)), (None, None));
        assert!(!cache.is_in_use());
    }
}
