//! How many connections a pool may have open beyond its maximum.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many connections beyond the maximum of their pool may be busy with statements that nobody waits for any
/// more.
const MAX_ABANDONED: usize = 7;

/// So many are always left to ask whether the server is back. Together they are the 8 that the guide names.
const MAX_PROBES: usize = 1;

/// The places beyond the maximum of a pool, which all transactors on it share. Each connection outside of the
/// pool holds one until the server is done with it.
#[derive(Debug)]
pub(super) struct Places {
    abandoned: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

impl Places {
    /// Those of the pool with this [identity](crate::tx::identity).
    pub(super) fn of(pool: usize) -> Arc<Self> {
        static PLACES: LazyLock<Mutex<HashMap<usize, Weak<Places>>>> = LazyLock::new(Mutex::default);
        let mut pools = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pools.get(&pool).and_then(Weak::upgrade) {
            return known;
        }
        // Those that nobody is in any more are as good as new ones.
        pools.retain(|_, places| places.strong_count() > 0);
        let [abandoned, probes] = [MAX_ABANDONED, MAX_PROBES].map(|places| Arc::new(Semaphore::new(places)));
        let places = Arc::new(Self { abandoned, probes });
        pools.insert(pool, Arc::downgrade(&places));
        places
    }

    /// A place for a connection whose caller has gone, if there is one.
    pub(super) fn for_abandoned(self: &Arc<Self>) -> Option<Place> {
        self.place(self.abandoned.clone().try_acquire_owned().ok())
    }

    /// A place for a connection that asks whether the server answers, if there is one.
    pub(super) fn for_probe(self: &Arc<Self>) -> Option<Place> {
        let own = self.probes.clone().try_acquire_owned();
        self.place(own.or_else(|_| self.abandoned.clone().try_acquire_owned()).ok())
    }

    fn place(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Option<Place> {
        permit.map(|permit| Place { _permit: permit, _places: self.clone() })
    }
}

/// A place that is taken for as long as this value lives.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// Keeps the number of places known.
    _places: Arc<Places>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactors_on_one_pool_share_the_places_while_any_is_taken() {
        let first = Places::of(1).for_abandoned().expect("a place");
        assert_eq!(Places::of(1).abandoned.available_permits(), MAX_ABANDONED - 1);
        assert_eq!(Places::of(2).abandoned.available_permits(), MAX_ABANDONED);
        drop(first);
        assert_eq!(Places::of(1).abandoned.available_permits(), MAX_ABANDONED);
    }

    #[test]
    fn a_probe_has_a_place_when_all_others_are_taken() {
        let abandoned: Vec<_> = std::iter::from_fn(|| Places::of(3).for_abandoned()).collect();
        assert_eq!(abandoned.len(), MAX_ABANDONED);
        let probe = Places::of(3).for_probe();
        assert!(probe.is_some() && Places::of(3).for_probe().is_none(), "8 in all");
    }
}
