//! A batch of requests as a unit of work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::request::HoldRequest;
use super::settings::HoldSettings;
use super::sql::{HoldId, HoldSql, NewHold};
use super::{HoldCall, HoldKey};
use crate::backend::Backend;
use crate::batching::{NumbersRead, sums};
use crate::error::Error;
use crate::transactor::{Decision, Ended, Unit, UnitOutput};
use crate::tx::{RowRequest, Tx};

/// The result of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum HoldResult {
    /// In microseconds since 1970.
    Held {
        id: HoldId,
        expires_at: i64,
    },
    Refused {
        available: i64,
    },
    NotFound,
}

/// Microseconds that fit a column.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

type Results<K> = Vec<(HoldCall<K>, Result<HoldResult, Error>)>;

/// A unit of work that takes amounts for calls, in the order of their arrival.
pub(super) struct Taking<'a, K> {
    settings: &'a HoldSettings,
    calls: Vec<HoldCall<K>>,
    output: UnitOutput<TakenHolds, Error>,
}

/// What an attempt has taken.
#[derive(Default)]
struct TakenHolds {
    /// The results, one for each call; `None` for a call that was withdrawn.
    results: Vec<Option<Result<HoldResult, Error>>>,
    /// The expired holds of rows that had not enough.
    expired: Vec<i64>,
}

/// How a batch ended that was committed.
pub(super) struct Committed<K> {
    pub(super) results: Results<K>,
    /// Expired holds of rows from which a call was refused.
    pub(super) expired: Vec<i64>,
}

impl<'a, K> Taking<'a, K> {
    pub(super) fn new(settings: &'a HoldSettings, calls: Vec<HoldCall<K>>) -> Self {
        Self { settings, calls, output: UnitOutput::new() }
    }

    /// Returns the calls with their results, or the calls with the error that they all share, without those
    /// that were withdrawn.
    pub(super) fn end(self, ended: Result<Ended, Error>) -> Result<Committed<K>, (Vec<HoldCall<K>>, Error)> {
        match self.output.end(ended) {
            Ok(TakenHolds { results, expired }) => {
                let results = self.calls.into_iter().zip(results);
                let results = results.filter_map(|(call, result)| Some((call, result?))).collect();
                Ok(Committed { results, expired })
            }
            Err(error) => Err((self.calls.into_iter().filter(HoldCall::is_wanted).collect(), error)),
        }
    }
}

#[async_trait]
impl<DB: Backend, K: HoldKey<DB>> Unit<DB> for Taking<'_, K> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        let taken = self.apply(tx).await;
        self.output.store(taken)
    }

    fn commit_is_unknown(&mut self, attempt: u32) {
        self.output.commit_is_unknown(attempt);
    }

    fn commit_was_found(&mut self, attempt: u32) {
        self.output.commit_was_found(attempt);
    }

    fn rows(&self) -> Option<Arc<dyn RowRequest<DB>>> {
        self.settings.numbers::<DB>().request(self.wanted_keys())
    }
}

impl<K: Ord + Clone + ToString + Send + Sync> Taking<'_, K> {
    async fn apply<DB: Backend>(&mut self, tx: &mut Tx<DB>) -> Result<TakenHolds, Error>
    where
        K: HoldKey<DB>,
    {
        let mut taken = TakenHolds::default();
        let (sql, records) = (HoldSql::of::<DB>(), self.settings.records());
        let numbers = self.settings.numbers::<DB>();
        let NumbersRead { found, also: locked_at } = numbers.lock(tx, &self.wanted_keys()).await?;
        let mut rows = LockedNumbers { left: found.clone(), taken: BTreeMap::new(), short: BTreeSet::new() };
        let mut holds = Vec::new();
        // While the batch waited for locks, callers may have given up. From here on, they cannot.
        for call in &mut self.calls {
            let result = call.take().then(|| match rows.take(&call.request, self.settings.floor) {
                Ok(Some(refused)) => Ok(refused),
                Ok(None) => {
                    let id = HoldId::new();
                    holds.push((taken.results.len(), id, call.request.clone()));
                    Ok(HoldResult::Held { id, expires_at: 0 })
                }
                Err(NotAnInteger) => Err(numbers.not_an_integer()),
            });
            taken.results.push(result);
        }
        if !rows.short.is_empty() {
            let short: Vec<_> = rows.short.iter().map(ToString::to_string).collect();
            taken.expired = sql.expired(tx, records, &short, 0).await?;
        }
        if holds.is_empty() {
            return Ok(taken);
        }
        let changes = rows.taken.iter().map(|(key, change)| (key, *change)).collect();
        let changed_at = numbers.change(tx, changes, &sums(&found, &rows.taken)).await?;
        let now = changed_at.or(locked_at).unwrap_or_default();
        let mut records_of_holds = Vec::with_capacity(holds.len());
        for (position, id, request) in holds {
            let expires_at = now.saturating_add(micros(request.ttl));
            if let Some(result) = taken.results.get_mut(position) {
                *result = Some(Ok(HoldResult::Held { id, expires_at }));
            }
            let parts = request.amounts.iter().map(|(key, amount)| (key.to_string(), *amount)).collect();
            records_of_holds.push(NewHold { id, parts, expires_at });
        }
        sql.insert(tx, records, &records_of_holds, numbers.shares_texts).await?;
        Ok(taken)
    }

    /// Returns the keys of the calls whose callers still wait, in their order.
    fn wanted_keys(&self) -> Vec<K> {
        let wanted = self.calls.iter().filter(|call| call.is_wanted());
        let keys: BTreeSet<K> = wanted.flat_map(|call| call.request.amounts.keys().cloned()).collect();
        keys.into_iter().collect()
    }
}

struct NotAnInteger;

/// The rows that a batch has locked.
struct LockedNumbers<K> {
    /// The numbers after all calls so far.
    left: BTreeMap<K, Option<i64>>,
    /// What the calls have taken, as negative changes.
    taken: BTreeMap<K, i64>,
    /// The rows that had not enough for a call.
    short: BTreeSet<K>,
}

impl<K: Ord + Clone> LockedNumbers<K> {
    /// Takes what is requested, all of it or nothing. Returns the reason if it takes nothing.
    fn take(&mut self, request: &HoldRequest<K>, floor: i64) -> Result<Option<HoldResult>, NotAnInteger> {
        let mut refused = None;
        for (key, amount) in &request.amounts {
            let Some(number) = self.left.get(key) else { return Ok(Some(HoldResult::NotFound)) };
            let number = number.ok_or(NotAnInteger)?;
            let overflows = self.taken.get(key).is_some_and(|taken| taken.checked_sub(*amount).is_none());
            if overflows || number.checked_sub(*amount).is_none_or(|left| left < floor) {
                self.short.insert(key.clone());
                let available = number.saturating_sub(floor).max(0);
                refused = refused.or(Some(HoldResult::Refused { available }));
            }
        }
        if refused.is_some() {
            return Ok(refused);
        }
        for (key, amount) in &request.amounts {
            // Neither overflows, as was checked above.
            if let Some(Some(left)) = self.left.get_mut(key) {
                *left = left.wrapping_sub(*amount);
            }
            let taken = self.taken.entry(key.clone()).or_default();
            *taken = taken.wrapping_sub(*amount);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_are_taken_from_or_none() {
        let mut rows = LockedNumbers {
            left: BTreeMap::from([(1, Some(5)), (2, Some(1)), (3, None)]),
            taken: BTreeMap::new(),
            short: BTreeSet::new(),
        };
        let mut take = |amounts: &[(i32, i64)]| {
            let request =
                HoldRequest { amounts: amounts.iter().copied().collect(), ttl: Duration::from_secs(1) };
            let refused = rows.take(&request, 0).map_err(|_| "not an integer");
            (refused.map(|refused| refused.map(|refused| format!("{refused:?}"))), rows.taken.clone())
        };
        assert_eq!(take(&[(1, 2), (2, 2)]).0, Ok(Some("Refused { available: 1 }".into())));
        assert_eq!(take(&[(1, 2), (9, 1)]).0, Ok(Some("NotFound".into())));
        assert_eq!(take(&[(3, 1)]).0, Err("not an integer"));
        assert_eq!(take(&[(1, 2), (2, 1)]), (Ok(None), BTreeMap::from([(1, -2), (2, -1)])));
        assert_eq!(take(&[(1, i64::MAX)]).0, Ok(Some("Refused { available: 3 }".into())));
        assert_eq!(take(&[(1, 3)]), (Ok(None), BTreeMap::from([(1, -5), (2, -1)])));
        assert_eq!(rows.short, BTreeSet::from([1, 2]));
    }
}
