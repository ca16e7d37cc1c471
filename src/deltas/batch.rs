//! A batch of calls as a unit of work.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;

use crate::backend::{Backend, Key};
use crate::batching::{Found, NumbersRead, aborted};
use crate::error::Error;
use crate::transactor::{Decision, Ended, Unit, UnitOutput};
use crate::tx::{RowRequest, Tx};

use super::{AdditionCall, DeltaOutcome, Settings};

type CallResults<K> = Vec<(AdditionCall<K>, Result<DeltaOutcome, Error>)>;

/// The outcomes of an attempt, one for each call; `None` for a call that was withdrawn.
type Outcomes = Vec<Option<Result<DeltaOutcome, Error>>>;

/// A unit of work that applies calls in the order of their arrival.
pub(super) struct Batch<'a, K> {
    settings: &'a Settings,
    calls: Vec<AdditionCall<K>>,
    output: UnitOutput<Outcomes, Error>,
}

impl<'a, K> Batch<'a, K> {
    pub(super) fn new(settings: &'a Settings, calls: Vec<AdditionCall<K>>) -> Self {
        Self { settings, calls, output: UnitOutput::new() }
    }

    /// Returns the calls with their results, or the calls with the error that they all share, without those
    /// that were withdrawn.
    pub(super) fn end(
        self,
        ended: Result<Ended, Error>,
    ) -> Result<CallResults<K>, (Vec<AdditionCall<K>>, Error)> {
        match self.output.end(ended) {
            Ok(outcomes) => {
                let results = self.calls.into_iter().zip(outcomes);
                Ok(results.filter_map(|(call, outcome)| Some((call, outcome?))).collect())
            }
            Err(error) => Err((self.calls.into_iter().filter(AdditionCall::is_wanted).collect(), error)),
        }
    }
}

#[async_trait]
impl<DB: Backend, K: Key<DB>> Unit<DB> for Batch<'_, K> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let outcomes = self.apply(tx).await;
        self.output.store(outcomes)
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.output.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.output.commit_was_found(attempt);
    }

    fn rows(&self) -> Option<Arc<dyn RowRequest<DB>>> {
        self.settings.numbers().request(self.wanted_keys())
    }
}

impl<K: Ord + Clone + Send + Sync> Batch<'_, K> {
    async fn apply<DB: Backend>(&mut self, tx: &mut Tx<DB>) -> Result<Outcomes, Error>
    where
        K: Key<DB>,
    {
        let mut outcomes = Vec::with_capacity(self.calls.len());
        let numbers = self.settings.numbers();
        let NumbersRead { found, .. } = numbers.lock(tx, &self.wanted_keys()).await?;
        let mut rows: BTreeMap<K, LockedRow> =
            found.into_iter().map(|(key, value)| (key, LockedRow { value, change: 0 })).collect();
        // While the batch waited for locks, callers may have given up. From here on, they cannot.
        for call in &mut self.calls {
            let outcome = call.take().then(|| match rows.get_mut(&call.key) {
                None => Ok(DeltaOutcome::NotFound),
                Some(row) => {
                    row.add(call.request, &self.settings.bounds).ok_or_else(|| numbers.not_an_integer())
                }
            });
            outcomes.push(outcome);
        }
        let changed = rows.iter().filter(|(_, row)| row.change != 0);
        let changes: Option<Vec<_>> =
            changed.map(|(key, row)| Some((key, i64::try_from(row.change).ok()?))).collect();
        match changes {
            Some(changes) if changes.is_empty() => Ok(outcomes),
            Some(changes) => {
                let sums: Found<K> = rows.iter().map(|(key, row)| (key.clone(), row.value)).collect();
                numbers.change(tx, changes, &sums).await?;
                Ok(outcomes)
            }
            None => Err(aborted("the changes of one row add up to more than fits an integer".into())),
        }
    }

    /// Returns the keys of the calls whose callers still wait, in their order.
    fn wanted_keys(&self) -> Vec<K> {
        let wanted = self.calls.iter().filter(|call| call.is_wanted()).map(|call| call.key.clone());
        wanted.collect::<BTreeSet<K>>().into_iter().collect()
    }
}

/// A locked row: its value, and the change to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LockedRow {
    /// The value after all calls so far; `None` if it is not an integer in range.
    value: Option<i64>,
    /// The sum of the applied calls. It may exceed an `i64` even if no intermediate value does.
    change: i128,
}

impl LockedRow {
    /// Applies one call; returns `None` if the value is not an integer in range.
    fn add(&mut self, delta: i64, bounds: &RangeInclusive<i64>) -> Option<DeltaOutcome> {
        let value = self.value?;
        Some(match value.checked_add(delta).filter(|sum| bounds.contains(sum)) {
            Some(sum) => {
                self.value = Some(sum);
                self.change += i128::from(delta);
                DeltaOutcome::Applied { value: sum }
            }
            None => DeltaOutcome::Refused { value },
        })
    }
}
