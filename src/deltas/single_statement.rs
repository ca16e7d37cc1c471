//! Applies batches in one round trip.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{AddInOneStatement, Addition, Backend, Key};
use crate::strategies::Pessimistic;
use crate::strategy::{Limits, OwnLockLimit};
use crate::transactor::{Options, PoolTransactor};

use super::{AdditionCall, DeltaOutcome, Settings};

/// The maximum wait for a row lock: long enough for the commit of another batch, on another connection or
/// in another process.
const MAX_LOCK_WAIT: Duration = Duration::from_millis(5);

/// How many batches skip the single statement after it failed for most rows of a batch.
const SKIPS: u32 = 16;

/// Adds to rows in one round trip, commit included, if the database can.
///
/// It leaves the following to a [`Batch`](super::batch::Batch), which takes several round trips: rows that do
/// not exist; all calls on a row if one of them would leave the bounds; calls that the database refuses; and
/// all calls if another session keeps a row locked.
///
/// # Why the short lock timeout?
///
/// While a `Batch` waits for its locks, a caller may still withdraw its call, and knows that nothing was
/// stored. A call in a single statement can no longer be withdrawn, so the wait must end before the deadline
/// of every call.
pub(super) struct SingleStatement<DB: Backend, K> {
    statement: Option<Box<dyn AddInOneStatement<DB, K>>>,
    /// The number of batches that are still to skip the statement.
    skips: AtomicU32,
}

impl<DB: Backend, K: Key<DB>> SingleStatement<DB, K> {
    pub(super) fn new(settings: &Settings) -> Self {
        let is_allowed = settings.single_statement && !settings.options.requires_transaction();
        Self {
            statement: is_allowed.then(|| DB::add_in_one_statement(settings.target)).flatten(),
            skips: AtomicU32::new(0),
        }
    }

    /// Applies and completes calls. Returns the calls that are left to a transaction.
    pub(super) async fn apply(
        &self,
        transactor: &PoolTransactor<DB, Pessimistic>,
        bounds: &RangeInclusive<i64>,
        calls: Vec<AdditionCall<K>>,
    ) -> Vec<AdditionCall<K>> {
        let deadline = calls.iter().map(|call| call.deadline).max();
        let (Some(statement), Some(deadline)) = (&self.statement, deadline) else { return calls };
        if self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return calls;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let transactor = transactor.clone().options(Options::new().deadline(left).attempts(1));
        if !transactor.engine().await.is_ok_and(|engine| engine.adds_in_one_statement()) {
            return calls;
        }
        let sent = SentCalls { calls, sums: BTreeMap::new() };
        // Checked before a connection is acquired, and again when there is one.
        if sent.lock_timeout().is_none() {
            return sent.calls;
        }
        let sent = Mutex::new(sent);
        let changed = transactor
            .run_on_connection(statement.sql(), |connection, limit: Duration| {
                let mut sent = lock(&sent);
                let Some(lock_timeout) = sent.lock_timeout() else {
                    return Box::pin(ready(Ok(Vec::new())));
                };
                sent.take_batch(bounds);
                // Options with limits of their own never reach this point: a transaction handles them.
                let (left, lock) = (Some(limit), Some(lock_timeout));
                let limits =
                    Limits { left, lock, statement: None, idle: None, own_lock: OwnLockLimit::default() };
                match &sent.additions(bounds)[..] {
                    [] => Box::pin(ready(Ok(Vec::new()))),
                    additions => statement.add(connection, additions, &limits),
                }
            })
            .await;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Ok(changed) => {
                if changed.len() * 2 < sent.sums.len() {
                    self.skips.store(SKIPS, Ordering::Relaxed);
                }
                sent.complete(&changed)
            }
            Err(error) if error.is_commit_unknown() => {
                for call in sent.calls {
                    call.complete(Err(error.duplicate()));
                }
                Vec::new()
            }
            // Nothing was stored. The transaction will meet the same failure and report it.
            Err(_) => {
                self.skips.store(SKIPS, Ordering::Relaxed);
                sent.calls.into_iter().map(AdditionCall::given_back).collect()
            }
        }
    }
}

/// The calls of a statement.
struct SentCalls<K> {
    calls: Vec<AdditionCall<K>>,
    /// The sums of the calls, for each row that is to be changed.
    sums: BTreeMap<K, Sum>,
}

/// The sum of calls on one row, and the range of its partial sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    total: i128,
    lowest: Option<i128>,
    highest: Option<i128>,
}

impl<K: Ord + Clone> SentCalls<K> {
    /// Returns the time limit for each row lock: a hundredth of the shortest time left, so that the server
    /// responds before any deadline passes. `None` if that is too short.
    fn lock_timeout(&self) -> Option<Duration> {
        let first = self.calls.iter().map(|call| call.deadline).min()?;
        let limit = MAX_LOCK_WAIT.min(first.saturating_duration_since(Instant::now()) / 100);
        (limit >= Duration::from_millis(1)).then_some(limit)
    }

    /// Takes the calls, so that their callers can no longer give up, and sums them.
    fn take_batch(&mut self, bounds: &RangeInclusive<i64>) {
        self.calls.retain_mut(AdditionCall::take);
        self.sums.clear();
        for call in &self.calls {
            self.sums.entry(call.key.clone()).or_default().add(call.request);
        }
        self.sums.retain(|_, sum| sum.fits(bounds).is_some());
    }

    fn additions(&self, bounds: &RangeInclusive<i64>) -> Vec<Addition<'_, K>> {
        let fitting = self.sums.iter().filter_map(|(key, sum)| Some((key, sum.fits(bounds)?)));
        fitting.map(|(key, (delta, to))| Addition { key, delta, to }).collect()
    }

    /// Completes the calls on the rows that were changed, and returns the others. `changed` has the
    /// position of each addition and the value before it.
    fn complete(self, changed: &[(usize, i64)]) -> Vec<AdditionCall<K>> {
        let keys: Vec<&K> = self.sums.keys().collect();
        let mut values: BTreeMap<&K, i64> =
            changed.iter().filter_map(|(position, before)| Some((*keys.get(*position)?, *before))).collect();
        let mut rest = Vec::new();
        for call in self.calls {
            match values.get_mut(&call.key) {
                None => rest.push(call.given_back()),
                Some(value) => {
                    // No step leaves the bounds, so none overflows.
                    *value = value.wrapping_add(call.request);
                    let value = *value;
                    call.complete(Ok(DeltaOutcome::Applied { value }));
                }
            }
        }
        rest
    }
}

impl Sum {
    fn add(&mut self, delta: i64) {
        self.total += i128::from(delta);
        self.lowest = Some(self.lowest.map_or(self.total, |lowest| lowest.min(self.total)));
        self.highest = Some(self.highest.map_or(self.total, |highest| highest.max(self.total)));
    }

    /// Returns the amount to add, and the range of the values to which it may be added: those from which no
    /// step leaves the bounds. `None` if there is nothing to write, or no such value.
    fn fits(&self, bounds: &RangeInclusive<i64>) -> Option<(i64, RangeInclusive<i64>)> {
        let delta = i64::try_from(self.total).ok().filter(|delta| *delta != 0)?;
        let min = i128::from(*bounds.start()) - self.lowest?;
        let max = i128::from(*bounds.end()) - self.highest?;
        let within = i128::from(i64::MIN)..=i128::from(i64::MAX);
        let (min, max) = (min.max(*within.start()), max.min(*within.end()));
        let to = i64::try_from(min).ok()?..=i64::try_from(max).ok()?;
        (!to.is_empty()).then_some((delta, to))
    }
}

/// Locks the calls, even if the lock is poisoned: a panic in a key's `Ord` leaves nothing behind that is used
/// again.
fn lock<K>(sent: &Mutex<SentCalls<K>>) -> MutexGuard<'_, SentCalls<K>> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(deltas: &[i64]) -> Sum {
        let mut sum = Sum::default();
        deltas.iter().for_each(|delta| sum.add(*delta));
        sum
    }

    /// Checks that each step stays within the bounds from every value in the range, and from no other.
    #[test]
    fn the_range_holds_the_values_from_which_no_step_leaves_the_bounds() {
        let bounds = 0..=20;
        for deltas in
            [&[5_i64][..], &[-6, 1], &[7, -7, 3], &[-1, -1, -1], &[20], &[21], &[3, -30, 40], &[-4, 25]]
        {
            let fits = sum(deltas).fits(&bounds);
            for number in -30..=50_i64 {
                let mut steps = deltas.iter().scan(number, |value, delta| {
                    *value += delta;
                    Some(*value)
                });
                let stays = steps.all(|value| bounds.contains(&value));
                let allows = fits.as_ref().is_some_and(|(_, to)| to.contains(&number));
                assert_eq!(allows, stays, "{number}: {deltas:?}");
            }
            if let Some((delta, _)) = fits {
                assert_eq!(delta, deltas.iter().sum::<i64>());
            }
        }
    }

    #[test]
    fn the_lock_timeout_is_far_shorter_than_any_deadline() {
        let lock_timeout = |millis: &[u64]| {
            let call = |millis: &u64| {
                let deadline = Instant::now() + Duration::from_millis(*millis);
                AdditionCall::new(1, 1, deadline, Default::default(), tokio::sync::oneshot::channel().0)
            };
            SentCalls { calls: millis.iter().map(call).collect(), sums: BTreeMap::new() }.lock_timeout()
        };
        assert_eq!(lock_timeout(&[10_000]), Some(MAX_LOCK_WAIT));
        assert!(lock_timeout(&[10_000, 400, 10_000]).is_some_and(|wait| wait <= Duration::from_millis(4)));
        assert_eq!(lock_timeout(&[10_000, 99]), None);
        assert_eq!(lock_timeout(&[]), None);
    }

    #[test]
    fn a_sum_that_fits_no_value_is_left_to_a_transaction() {
        let all = i64::MIN..=i64::MAX;
        assert_eq!(sum(&[i64::MAX, 1]).fits(&all), None);
        assert_eq!(sum(&[i64::MAX]).fits(&all), Some((i64::MAX, i64::MIN..=0)));
        assert_eq!(sum(&[i64::MIN]).fits(&all), Some((i64::MIN, 0..=i64::MAX)));
        assert_eq!(sum(&[1]).fits(&all), Some((1, i64::MIN..=i64::MAX - 1)));
        assert_eq!(sum(&[5, -5]).fits(&all), None, "nothing is to be written");
        assert_eq!(sum(&[]).fits(&all), None);
    }
}
