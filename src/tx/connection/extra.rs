//! Limits the connections that a pool may have open beyond its maximum.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections per pool, beyond its maximum, may be busy with statements that were abandoned.
const MAX_ABANDONED: usize = 7;

/// The number of permits that are reserved for connections that probe the server. Together with the abandoned
/// connections, these are the 8 that the guide mentions.
const MAX_PROBES: usize = 1;

/// The permits for connections beyond the maximum of one pool, shared by all transactors on it. Each such
/// connection holds a permit until the server has finished with it.
#[derive(Debug)]
pub(super) struct ExtraConnections {
    abandoned: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

impl ExtraConnections {
    /// Returns the permits of the pool with this [identity](crate::tx::identity).
    pub(super) fn of(pool: usize) -> Arc<Self> {
        static POOLS: LazyLock<Mutex<HashMap<usize, Weak<ExtraConnections>>>> = LazyLock::new(Mutex::default);
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pools.get(&pool).and_then(Weak::upgrade) {
            return known;
        }
        // An entry whose permits are all free is the same as a new one.
        pools.retain(|_, extra| extra.strong_count() > 0);
        let [abandoned, probes] = [MAX_ABANDONED, MAX_PROBES].map(|max| Arc::new(Semaphore::new(max)));
        let extra = Arc::new(Self { abandoned, probes });
        pools.insert(pool, Arc::downgrade(&extra));
        extra
    }

    /// Returns a permit for a connection whose caller was dropped, if one is free.
    pub(super) fn for_abandoned(self: &Arc<Self>) -> Option<ExtraPermit> {
        self.permit(self.abandoned.clone().try_acquire_owned().ok())
    }

    /// Returns a permit for a connection that probes the server, if one is free.
    pub(super) fn for_probe(self: &Arc<Self>) -> Option<ExtraPermit> {
        let reserved = self.probes.clone().try_acquire_owned();
        self.permit(reserved.or_else(|_| self.abandoned.clone().try_acquire_owned()).ok())
    }

    fn permit(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Option<ExtraPermit> {
        permit.map(|permit| ExtraPermit { _permit: permit, _pool: self.clone() })
    }
}

/// Allows one connection beyond the maximum of its pool, until it is dropped.
#[derive(Debug)]
pub(super) struct ExtraPermit {
    _permit: OwnedSemaphorePermit,
    /// Keeps the entry of the pool alive.
    _pool: Arc<ExtraConnections>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactors_on_one_pool_share_the_permits() {
        let first = ExtraConnections::of(1).for_abandoned().expect("a free permit");
        assert_eq!(ExtraConnections::of(1).abandoned.available_permits(), MAX_ABANDONED - 1);
        assert_eq!(ExtraConnections::of(2).abandoned.available_permits(), MAX_ABANDONED);
        drop(first);
        assert_eq!(ExtraConnections::of(1).abandoned.available_permits(), MAX_ABANDONED);
    }

    #[test]
    fn reserves_a_permit_for_a_probe() {
        let abandoned: Vec<_> = std::iter::from_fn(|| ExtraConnections::of(3).for_abandoned()).collect();
        assert_eq!(abandoned.len(), MAX_ABANDONED);
        let probe = ExtraConnections::of(3).for_probe();
        assert!(probe.is_some() && ExtraConnections::of(3).for_probe().is_none(), "8 in all");
    }
}
