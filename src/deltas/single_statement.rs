//! Calls that one round trip is enough for.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{AddInOneStatement, Addition, Backend, Key};
use crate::strategies::Pessimistic;
use crate::strategy::Limits;
use crate::transactor::{Options, PoolTransactor};

use super::pending::Call;
use super::{DeltaOutcome, Settings};

/// How long a lock is waited for: for the commit of somebody who does the same, on another connection or in
/// another process.
const MAX_LOCK_WAIT: Duration = Duration::from_millis(5);

/// So many batches are not tried at once after one of which most rows had to be tried again.
const SKIPS: u32 = 16;

/// Where the database can do it: adds to rows in one round trip, which is the commit, too.
///
/// What does not come of it is left to a [`Batch`](super::batch::Batch), with all of its round trips: a row
/// that is not there; the calls on a row of which one does not fit; whatever the database refuses; and
/// everything, if somebody else keeps a row locked.
///
/// # Why so little patience with locks?
///
/// A call that was sent can no longer be taken back. A batch may wait long for its locks, and whoever gives
/// up meanwhile is told that nothing was stored. Here the wait ends before anybody's deadline, and soon
/// enough for those behind it.
pub(super) struct SingleStatement<DB: Backend, K> {
    by: Option<Box<dyn AddInOneStatement<DB, K>>>,
    skips: AtomicU32,
}

impl<DB: Backend, K: Key<DB>> SingleStatement<DB, K> {
    pub(super) fn new(settings: &Settings) -> Self {
        let is_enough = settings.single_statement && !settings.options.ask_for_a_transaction();
        Self {
            by: is_enough.then(|| DB::add_in_one_statement(settings.target)).flatten(),
            skips: AtomicU32::new(0),
        }
    }

    /// Carries calls to their commit, and answers those that are still to be carried.
    pub(super) async fn take(
        &self,
        transactor: &PoolTransactor<DB, Pessimistic>,
        bounds: &RangeInclusive<i64>,
        calls: Vec<Call<K>>,
    ) -> Vec<Call<K>> {
        let deadline = calls.iter().map(|call| call.deadline).max();
        let (Some(by), Some(deadline)) = (&self.by, deadline) else { return calls };
        if self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return calls;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let once = transactor.clone().options(Options::new().deadline(left).attempts(1));
        let sent = SentCalls { calls, sums: BTreeMap::new() };
        // Before a connection is taken in vain, and once more when there is one.
        if sent.patience().is_none() {
            return sent.calls;
        }
        let sent = Mutex::new(sent);
        let made = once
            .run_on_connection(by.sql(), |connection, limit: Duration| {
                let mut sent = lock(&sent);
                let Some(patience) = sent.patience() else { return Box::pin(ready(Ok(Vec::new()))) };
                sent.take_batch(bounds);
                let limits = Limits { left: Some(limit), lock: Some(patience), ..Limits::default() };
                match &sent.additions(bounds)[..] {
                    [] => Box::pin(ready(Ok(Vec::new()))),
                    additions => by.add(connection, additions, &limits),
                }
            })
            .await;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(made) => {
                if made.len() * 2 < sent.sums.len() {
                    self.skips.store(SKIPS, Ordering::Relaxed);
                }
                sent.arrive(&made)
            }
            Err(error) if error.is_commit_unknown() => {
                for call in sent.calls {
                    call.answer(Err(error.duplicate()));
                }
                Vec::new()
            }
            // Nothing was stored. Whatever was in the way, the other way meets it again, and tells.
            Err(_) => {
                self.skips.store(SKIPS, Ordering::Relaxed);
                sent.calls.into_iter().map(Call::given_back).collect()
            }
        }
    }
}

/// What is on its way.
struct SentCalls<K> {
    calls: Vec<Call<K>>,
    /// Of the calls on each row that is to be changed.
    sums: BTreeMap<K, Sum>,
}

/// What calls on one row come to, one after another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    total: i128,
    /// At the lowest on the way.
    lowest: Option<i128>,
    highest: Option<i128>,
}

impl<K: Ord + Clone> SentCalls<K> {
    /// How long a lock may be waited for, so that nobody's deadline passes before the server says so, slow as
    /// the answer may be; `None` where that is too little.
    fn patience(&self) -> Option<Duration> {
        let first = self.calls.iter().map(|call| call.deadline).min()?;
        let patience = MAX_LOCK_WAIT.min(first.saturating_duration_since(Instant::now()) / 100);
        (patience >= Duration::from_millis(1)).then_some(patience)
    }

    /// From here on nobody can take a call back.
    fn take_batch(&mut self, bounds: &RangeInclusive<i64>) {
        self.calls.retain_mut(Call::take);
        self.sums.clear();
        for call in &self.calls {
            self.sums.entry(call.key.clone()).or_default().add(call.delta);
        }
        self.sums.retain(|_, sum| sum.fits(bounds).is_some());
    }

    fn additions(&self, bounds: &RangeInclusive<i64>) -> Vec<Addition<'_, K>> {
        let fitting = self.sums.iter().filter_map(|(key, sum)| Some((key, sum.fits(bounds)?)));
        fitting.map(|(key, (delta, to))| Addition { key, delta, to }).collect()
    }

    /// Answers the calls on the rows that were changed, by the places of their additions; and returns the
    /// others.
    fn arrive(self, made: &[(usize, i64)]) -> Vec<Call<K>> {
        let keys: Vec<&K> = self.sums.keys().collect();
        let mut values: BTreeMap<&K, i64> =
            made.iter().filter_map(|(place, before)| Some((*keys.get(*place)?, *before))).collect();
        let mut rest = Vec::new();
        for call in self.calls {
            match values.get_mut(&call.key) {
                None => rest.push(call.given_back()),
                Some(value) => {
                    // No step leaves the bounds, so none wraps around.
                    *value = value.wrapping_add(call.delta);
                    let value = *value;
                    call.answer(Ok(DeltaOutcome::Applied { value }));
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

    /// What is to be added, and to which numbers: those from which no step leaves the bounds. `None` where
    /// nothing is to be written, or it does not fit any number.
    fn fits(&self, bounds: &RangeInclusive<i64>) -> Option<(i64, RangeInclusive<i64>)> {
        let delta = i64::try_from(self.total).ok().filter(|delta| *delta != 0)?;
        let least = i128::from(*bounds.start()) - self.lowest?;
        let most = i128::from(*bounds.end()) - self.highest?;
        let within = i128::from(i64::MIN)..=i128::from(i64::MAX);
        let (least, most) = (least.max(*within.start()), most.min(*within.end()));
        let to = i64::try_from(least).ok()?..=i64::try_from(most).ok()?;
        (!to.is_empty()).then_some((delta, to))
    }
}

/// A key whose `Ord` panics leaves nothing half-done that is used again.
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

    /// Whatever the number is: in the range, and only there, each step stays within the bounds.
    #[test]
    fn the_range_is_that_of_the_steps() {
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
                let said = fits.as_ref().is_some_and(|(_, to)| to.contains(&number));
                assert_eq!(said, stays, "{number}: {deltas:?}");
            }
            if let Some((delta, _)) = fits {
                assert_eq!(delta, deltas.iter().sum::<i64>());
            }
        }
    }

    #[test]
    fn nobodys_deadline_passes_while_a_lock_is_waited_for() {
        let patience = |millis: &[u64]| {
            let call = |millis: &u64| {
                let deadline = Instant::now() + Duration::from_millis(*millis);
                Call::new(1, 1, deadline, Default::default(), tokio::sync::oneshot::channel().0)
            };
            SentCalls { calls: millis.iter().map(call).collect(), sums: BTreeMap::new() }.patience()
        };
        assert_eq!(patience(&[10_000]), Some(MAX_LOCK_WAIT));
        assert!(patience(&[10_000, 400, 10_000]).is_some_and(|wait| wait <= Duration::from_millis(4)));
        assert_eq!(patience(&[10_000, 99]), None);
        assert_eq!(patience(&[]), None);
    }

    #[test]
    fn what_no_integer_holds_is_left_to_others() {
        let all = i64::MIN..=i64::MAX;
        assert_eq!(sum(&[i64::MAX, 1]).fits(&all), None);
        assert_eq!(sum(&[i64::MAX]).fits(&all), Some((i64::MAX, i64::MIN..=0)));
        assert_eq!(sum(&[i64::MIN]).fits(&all), Some((i64::MIN, 0..=i64::MAX)));
        assert_eq!(sum(&[1]).fits(&all), Some((1, i64::MIN..=i64::MAX - 1)));
        assert_eq!(sum(&[5, -5]).fits(&all), None, "nothing is to be written");
        assert_eq!(sum(&[]).fits(&all), None);
    }
}
