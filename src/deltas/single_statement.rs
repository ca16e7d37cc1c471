//! Applies batches in one round trip.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::backend::{AddInOneStatement, Addition, Backend, Engine, Key};
use crate::batching::{ChangedRows, SingleStatements, StatementBatch};
use crate::strategies::Pessimistic;
use crate::strategy::Limits;
use crate::transactor::PoolTransactor;

use super::{AdditionCall, DeltaOutcome, Settings};

/// Adds to rows in one round trip, commit included, if the database can.
///
/// It leaves the following to a [`Batch`](super::batch::Batch), which takes several round trips: rows that do
/// not exist; all calls on a row if one of them would leave the bounds; calls that the database refuses; and
/// all calls if another session keeps a row locked.
pub(super) struct SingleStatement<DB: Backend, K> {
    statement: Option<Box<dyn AddInOneStatement<DB, K>>>,
    sender: SingleStatements,
}

impl<DB: Backend, K: Key<DB>> SingleStatement<DB, K> {
    pub(super) fn new(settings: &Settings) -> Self {
        let is_allowed = settings.single_statement && !settings.options.requires_transaction();
        let statement = is_allowed.then(|| DB::add_in_one_statement(settings.target)).flatten();
        Self { statement, sender: SingleStatements::default() }
    }

    /// Applies and completes calls. Returns the calls that are left to a transaction.
    pub(super) async fn apply(
        &self,
        transactor: &PoolTransactor<DB, Pessimistic>,
        bounds: &RangeInclusive<i64>,
        calls: Vec<AdditionCall<K>>,
    ) -> Vec<AdditionCall<K>> {
        let Some(statement) = self.statement.as_deref() else { return calls };
        let sent = SentCalls { statement, bounds, calls, sums: BTreeMap::new() };
        self.sender.apply(transactor, statement.sql(), sent).await
    }
}

/// The calls of a statement.
struct SentCalls<'s, DB: Backend, K> {
    statement: &'s dyn AddInOneStatement<DB, K>,
    bounds: &'s RangeInclusive<i64>,
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

impl<DB: Backend, K: Key<DB>> StatementBatch<DB> for SentCalls<'_, DB, K> {
    type Key = K;
    type Request = i64;
    type Outcome = DeltaOutcome;

    fn calls(&mut self) -> &mut Vec<AdditionCall<K>> {
        &mut self.calls
    }

    fn sum(&mut self) {
        self.sums.clear();
        for call in &self.calls {
            self.sums.entry(call.key.clone()).or_default().add(call.request);
        }
        self.sums.retain(|_, sum| sum.fits(self.bounds).is_some());
    }

    fn runs_on(&self, engine: &Engine) -> bool {
        self.statement.runs_on(engine)
    }

    fn lock_wait(&self, left: Duration) -> Option<Duration> {
        self.statement.lock_wait(left)
    }

    fn rows(&self) -> usize {
        self.sums.len()
    }

    fn send<'c>(
        &self,
        connection: &'c mut DB::Connection,
        limits: &Limits,
    ) -> Option<BoxFuture<'c, Result<ChangedRows, sqlx::Error>>> {
        let fitting = self.sums.iter().filter_map(|(key, sum)| Some((key, sum.fits(self.bounds)?)));
        let additions: Vec<_> = fitting.map(|(key, (delta, to))| Addition { key, delta, to }).collect();
        (!additions.is_empty()).then(|| self.statement.add(connection, &additions, limits))
    }

    /// `changed` has the position of each addition and the value before it.
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
