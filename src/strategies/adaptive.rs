use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use sqlx::Pool;

use crate::backend::Backend;
use crate::failure::Failure;
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::PoolTransactor;

/// From here on a key is hot.
const HOT: u8 = 16;
/// No key is hotter.
const HOTTEST: u8 = 64;
/// What a contended attempt adds; one that was not takes away 1.
const CONTENDED: u8 = 8;
/// From this attempt on a unit is late, and spared further conflicts.
const LATE: u32 = 3;
/// A power of two. One byte each.
const SLOTS: usize = 4096;

/// [`Optimistic`](crate::Optimistic) as long as that goes well, and like [`Pessimistic`](crate::Pessimistic) behind the
/// [`Gate`](crate::Gate) for what turns hot.
///
/// Units are written as for these two: they read with [`Tx::for_update`](crate::Tx::for_update), check the version when
/// they write, and say what they contend for with [`on_key`](crate::TransactorExt::on_key).
///
/// # The rule
///
/// Each key has a heat between 0 and 64. An attempt that met contention adds 8 to it, any other takes 1 away. Contention
/// is a conflict; or, for one that went through the gate, that others were there when it came. From a heat of 16 on,
/// attempts take the gate and lock their rows; so does the third attempt of any unit and all after it.
///
/// What follows, whatever the load does:
///
/// - Two conflicts in a row are enough to turn a key hot.
/// - Of the attempts without a lock, those lost to conflicts are at most one for each 8 of the key's attempts that met
///   none, and 3 more; besides those that were under way already when the key turned hot.
/// - A key that nobody contends for any more is optimistic again after at most 49 attempts.
///
/// # What it costs
///
/// 4 KiB, which clones share, however many keys there are: two keys may fall on the same heat, and are then locked
/// without need, or a little late. Nothing else depends on it. The heat of a key that is not used stays until it is.
///
/// # What it does not do
///
/// A unit whose run names no key is locked from its third attempt on and teaches nothing. The gate shows the contention
/// within this process: where many processes each have one unit at a time for a hot key, they try without the lock every
/// now and then, at the rate above.
///
/// # Why counters and no clock?
///
/// What matters is how many attempts are lost for each that is not, and that is what is counted. A rate over time would
/// need to know how fast units are.
#[derive(Clone)]
pub struct Adaptive {
    heat: Arc<[AtomicU8]>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { heat: (0..SLOTS).map(|_| AtomicU8::new(0)).collect() }
    }
}

impl Adaptive {
    /// Binds the strategy to a pool.
    #[must_use]
    pub fn on<DB: Backend>(self, pool: &Pool<DB>) -> PoolTransactor<DB, Self> {
        PoolTransactor::new(self, pool)
    }

    fn heat_of(&self, key: u64) -> Option<&AtomicU8> {
        let slot = usize::try_from(key % SLOTS as u64).ok()?;
        self.heat.get(slot)
    }

    fn is_hot(&self, key: u64) -> bool {
        self.heat_of(key).is_some_and(|heat| heat.load(Relaxed) >= HOT)
    }
}

impl Strategy for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn plan(&self, attempt: &Attempt) -> Plan {
        let plan = Plan::new(Isolation::ReadCommitted);
        if attempt.number >= LATE || attempt.key.is_some_and(|key| self.is_hot(key)) {
            plan.locking(RowLock::NO_KEY_UPDATE)
        } else {
            plan.gated(false)
        }
    }

    fn observe(&self, attempt: &Attempt, failure: Option<&Failure>) {
        let contended = match failure {
            // Of an outage, or a violated constraint, nothing is to be learned.
            Some(failure) if !failure.kind().is_conflict() => return,
            Some(_) => true,
            None => attempt.queued,
        };
        let Some(heat) = attempt.key.and_then(|key| self.heat_of(key)) else { return };
        let _ = heat.fetch_update(Relaxed, Relaxed, |heat| {
            let next = if contended { (heat + CONTENDED).min(HOTTEST) } else { heat.saturating_sub(1) };
            // Most keys are cold, and stay so: nothing is written then.
            (next != heat).then_some(next)
        });
    }
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hot = self.heat.iter().filter(|heat| heat.load(Relaxed) >= HOT).count();
        f.debug_struct("Adaptive").field("hot", &hot).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::failure::FailureKind;
    // proptest has one, too.
    use crate::strategy::Strategy as _;

    const KEY: u64 = 11;

    fn attempt(number: u32) -> Attempt {
        Attempt { number, key: Some(KEY), queued: false }
    }

    fn is_optimistic(plan: &Plan) -> bool {
        assert_eq!(plan.row_lock.is_some(), plan.gated, "the gate and the lock go together");
        !plan.gated
    }

    /// One attempt at a key, where others are in the way or not. Answers whether it was lost to a conflict.
    fn one(adaptive: &Adaptive, number: u32, others: bool) -> bool {
        let mut attempt = attempt(number);
        let lost = others && is_optimistic(&adaptive.plan(&attempt));
        attempt.queued = others && !lost;
        let conflict = Failure::new(FailureKind::StaleVersion, "changed").retryable(true);
        adaptive.observe(&attempt, lost.then_some(&conflict));
        lost
    }

    proptest! {
        /// The promise: whatever the load does.
        #[test]
        fn few_attempts_are_lost(phases in prop::collection::vec((1_usize..200, 0.0..=1.0), 1..20), seed: u64) {
            use rand::{RngExt as _, SeedableRng as _};
            let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
            let adaptive = Adaptive::default();
            let (mut lost, mut calm) = (0, 0);
            for (length, contention) in phases {
                for _ in 0..length {
                    let others = chance.random_bool(contention);
                    lost += usize::from(one(&adaptive, 1, others));
                    calm += usize::from(!others);
                    prop_assert!(lost <= calm / 8 + 3, "{lost} lost, {calm} calm");
                }
            }
        }

        /// Without this, locking always would do.
        #[test]
        fn a_key_that_cools_is_optimistic_again(before in prop::collection::vec(any::<bool>(), 0..200)) {
            let adaptive = Adaptive::default();
            for others in before {
                one(&adaptive, 1, others);
            }
            for _ in 0..49 {
                one(&adaptive, 1, false);
            }
            prop_assert!(is_optimistic(&adaptive.plan(&attempt(1))));
        }

        #[test]
        fn two_conflicts_in_a_row_make_a_key_hot(before in prop::collection::vec(any::<bool>(), 0..200)) {
            let adaptive = Adaptive::default();
            for others in before {
                one(&adaptive, 1, others);
            }
            one(&adaptive, 1, true);
            one(&adaptive, 1, true);
            prop_assert!(!is_optimistic(&adaptive.plan(&attempt(1))));
        }

        #[test]
        fn late_attempts_lock_and_first_ones_on_fresh_keys_do_not(number in 1_u32.., key: Option<u64>) {
            let attempt = Attempt { number, key, queued: false };
            prop_assert_eq!(is_optimistic(&Adaptive::default().plan(&attempt)), number < 3);
        }

        #[test]
        fn a_hot_key_is_hot_alone(other: u64) {
            prop_assume!(other % SLOTS as u64 != KEY);
            let adaptive = Adaptive::default();
            one(&adaptive, 1, true);
            one(&adaptive, 1, true);
            let elsewhere = Attempt { key: Some(other), ..attempt(1) };
            prop_assert!(is_optimistic(&adaptive.plan(&elsewhere)));
        }
    }

    #[test]
    fn only_conflicts_are_contention() {
        let adaptive = Adaptive::default();
        for kind in [FailureKind::Unavailable, FailureKind::Constraint, FailureKind::ConnectionLost] {
            for _ in 0..100 {
                adaptive.observe(&attempt(1), Some(&Failure::new(kind, "unrelated")));
            }
        }
        assert!(is_optimistic(&adaptive.plan(&attempt(1))));
    }
}
