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

/// A key with at least this heat is hot.
const HOT: u8 = 16;
/// The maximum heat of a key.
const HOTTEST: u8 = 64;
/// What a contended attempt adds to the heat; an uncontended one subtracts 1.
const CONTENDED: u8 = 8;
/// The number of the attempt from which on a unit locks its rows whatever the heat, to avoid further
/// conflicts.
const LATE: u32 = 3;
/// The number of heat counters, of one byte each. A power of two.
const SLOTS: usize = 4096;

/// Runs units like [`Optimistic`](crate::Optimistic), and switches to row locks and the [`Gate`](crate::Gate)
/// for keys that become hot.
///
/// A unit reads with [`Tx::for_update`](crate::Tx::for_update), checks the version when it writes, and names
/// what it contends for with [`on_key`](crate::TransactorExt::on_key).
///
/// # The rule
///
/// Each key has a heat between 0 and 64. A contended attempt adds 8, any other attempt subtracts 1. An
/// attempt is contended if it failed with a conflict, or if it found other units at the gate. At a heat of 16
/// or more, attempts pass through the gate and lock their rows; so do the third and later attempts of any
/// unit.
///
/// The following holds for any load:
///
/// - Two conflicts in a row make a key hot.
/// - For every 8 attempts on a key without a conflict, at most one attempt without a lock fails with a
///   conflict, plus 3 in total. Attempts that had already started when the key became hot are not included.
/// - A key that is no longer contended is optimistic again after at most 49 attempts.
///
/// # What it costs
///
/// 4 KiB, shared by clones, for any number of keys. Two keys may share a counter. One of them may then be
/// locked unnecessarily or slightly late, which affects only speed. The heat of an unused key does not
/// change.
///
/// # What it does not do
///
/// A run without a key locks its rows from its third attempt on, and does not contribute to any heat. The
/// gate sees the contention of one process only. If each of many processes has one unit at a time for a hot
/// key, they occasionally try without the lock, at the rate above.
///
/// # Why counters and no clock?
///
/// The counters bound the share of attempts that fail with a conflict, which is the figure that matters. A
/// rate over time would depend on the speed of the units.
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

    fn record(&self, attempt: &Attempt, failure: Option<&Failure>) {
        let contended = match failure {
            // An outage or a constraint violation says nothing about contention.
            Some(failure) if !failure.kind().is_conflict() => return,
            Some(_) => true,
            None => attempt.queued,
        };
        let Some(heat) = attempt.key.and_then(|key| self.heat_of(key)) else { return };
        let _ = heat.fetch_update(Relaxed, Relaxed, |heat| {
            let next = if contended { (heat + CONTENDED).min(HOTTEST) } else { heat.saturating_sub(1) };
            // Most keys are cold and stay cold, so nothing has to be written for them.
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
    // proptest exports a trait of this name, too.
    use crate::strategy::Strategy as _;

    const KEY: u64 = 11;

    fn attempt(number: u32) -> Attempt {
        Attempt { number, key: Some(KEY), queued: false }
    }

    fn is_optimistic(plan: &Plan) -> bool {
        assert_eq!(plan.row_lock.is_some(), plan.gated, "the gate and the lock go together");
        !plan.gated
    }

    /// Makes one attempt at a key, with or without other units running on it. Returns whether it failed with
    /// a conflict.
    fn one(adaptive: &Adaptive, number: u32, others: bool) -> bool {
        let mut attempt = attempt(number);
        let lost = others && is_optimistic(&adaptive.plan(&attempt));
        attempt.queued = others && !lost;
        let conflict = Failure::new(FailureKind::StaleVersion, "changed").retryable(true);
        adaptive.record(&attempt, lost.then_some(&conflict));
        lost
    }

    proptest! {
        /// The bound of the documentation.
        #[test]
        fn lost_attempts_stay_within_the_documented_bound(
            phases in prop::collection::vec((1_usize..200, 0.0..=1.0), 1..20),
            seed: u64,
        ) {
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

        /// A strategy that always locks would pass the other tests.
        #[test]
        fn a_key_that_is_no_longer_contended_is_optimistic_again(
            before in prop::collection::vec(any::<bool>(), 0..200),
        ) {
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
        fn third_attempts_lock_and_first_attempts_on_cold_keys_do_not(number in 1_u32.., key: Option<u64>) {
            let attempt = Attempt { number, key, queued: false };
            prop_assert_eq!(is_optimistic(&Adaptive::default().plan(&attempt)), number < 3);
        }

        #[test]
        fn other_keys_stay_cold(other: u64) {
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
                adaptive.record(&attempt(1), Some(&Failure::new(kind, "unrelated")));
            }
        }
        assert!(is_optimistic(&adaptive.plan(&attempt(1))));
    }
}
