//! Holds in one round trip.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::settings::HoldSettings;
use super::sql::{HoldId, HoldIds};
use super::taking::{HoldResult, micros};
use super::{HoldCall, HoldKey, HoldTransactor};
use crate::backend::{Addition, Backend, HoldGroup, HoldInOneStatement, HoldRecords};
use crate::strategy::{Limits, OwnLockLimit};
use crate::transactor::Options;

/// The maximum wait for a row lock: long enough for the commit of another batch.
const MAX_LOCK_WAIT: Duration = Duration::from_millis(5);

/// How many batches skip the single statement after it failed for most rows of a batch.
const SKIPS: u32 = 16;

/// Takes amounts and stores their holds in one round trip, commit included, if the database can.
///
/// It leaves the following to a [`Taking`](super::taking::Taking): calls for several rows; rows that do not
/// exist; all calls on a row that has not enough for all of them; calls that the database refuses; and all
/// calls if another session keeps a row locked. Like that of `Deltas`, its wait for a lock ends long before
/// the deadline of any call, because its calls can no longer be withdrawn.
pub(super) struct SingleHoldStatement<DB: Backend, K> {
    statement: Option<Box<dyn HoldInOneStatement<DB, K>>>,
    /// The number of batches that are still to skip the statement.
    skips: AtomicU32,
}

impl<DB: Backend, K: HoldKey<DB>> SingleHoldStatement<DB, K> {
    pub(super) fn new(settings: &HoldSettings) -> Self {
        let is_allowed = settings.single_statement && !settings.options.requires_transaction();
        let records = HoldRecords { name: &settings.name, schema: settings.schema() };
        Self {
            statement: is_allowed.then(|| DB::hold_in_one_statement(settings.target, records)).flatten(),
            skips: AtomicU32::new(0),
        }
    }

    /// Runs and completes calls, after it has reported how many holds are stored. Returns the calls that are
    /// left to a transaction.
    pub(super) async fn apply(
        &self,
        db: &HoldTransactor<DB>,
        floor: i64,
        calls: Vec<HoldCall<K>>,
        report: impl FnOnce(usize),
    ) -> Vec<HoldCall<K>> {
        let deadline = calls.iter().map(|call| call.deadline).max();
        let (Some(statement), Some(deadline)) = (&self.statement, deadline) else { return calls };
        if self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return calls;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let db = db.clone().options(Options::new().deadline(left).attempts(1));
        let sent = SentHolds::new(calls);
        // Checked before a connection is acquired, and again when there is one.
        if sent.lock_timeout().is_none() {
            return sent.calls;
        }
        let sent = Mutex::new(sent);
        let changed = db
            .run_on_connection(statement.sql(), |connection, limit: Duration| {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(lock) = sent.lock_timeout() else {
                    return Box::pin(ready(Ok(Vec::new())));
                };
                sent.take_batch();
                let limits = Limits {
                    left: Some(limit),
                    lock: Some(lock),
                    statement: None,
                    idle: None,
                    own_lock: OwnLockLimit::default(),
                };
                let additions = sent.additions(floor);
                if additions.is_empty() {
                    return Box::pin(ready(Ok(Vec::new())));
                }
                let texts: Vec<String> = additions.iter().map(|one| one.key.to_string()).collect();
                statement.hold(connection, &additions, &sent.groups(&additions, &texts), &limits)
            })
            .await;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Ok(changed) => {
                if changed.len() * 2 < sent.sums.len() {
                    self.skips.store(SKIPS, Ordering::Relaxed);
                }
                sent.complete(floor, &changed, report)
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
                sent.calls.into_iter().map(HoldCall::given_back).collect()
            }
        }
    }
}

/// The calls of a statement.
struct SentHolds<K> {
    /// Those with the same row, amount and time follow one another.
    calls: Vec<HoldCall<K>>,
    /// What the calls for one row take from it; `None` if it exceeds an `i64`.
    sums: BTreeMap<K, Option<i64>>,
    /// The id of the first call's hold. Those of the others follow.
    first_id: i64,
    /// The tokens, one for each call.
    tokens: Vec<i64>,
}

impl<K: Ord + Clone> SentHolds<K> {
    fn new(mut calls: Vec<HoldCall<K>>) -> Self {
        // The order of arrival does not matter, because all calls on a row are held or none.
        calls.sort_by(|one, other| one.request.cmp(&other.request));
        Self { calls, sums: BTreeMap::new(), first_id: 0, tokens: Vec::new() }
    }

    /// Returns the time limit for each row lock: a hundredth of the shortest time left, so that the server
    /// responds before any deadline passes. `None` if that is too short.
    fn lock_timeout(&self) -> Option<Duration> {
        let first = self.calls.iter().map(|call| call.deadline).min()?;
        let limit = MAX_LOCK_WAIT.min(first.saturating_duration_since(Instant::now()) / 100);
        (limit >= Duration::from_millis(1)).then_some(limit)
    }

    /// Takes the calls, so that their callers can no longer give up, and sums those for a single row.
    fn take_batch(&mut self) {
        self.calls.retain_mut(HoldCall::take);
        self.sums.clear();
        (self.first_id, self.tokens) = HoldIds::batch(self.calls.len());
        for (key, amount) in self.calls.iter().filter_map(single) {
            let sum = self.sums.entry(key.clone()).or_insert(Some(0));
            *sum = sum.and_then(|sum| sum.checked_add(amount));
        }
    }

    fn additions(&self, floor: i64) -> Vec<Addition<'_, K>> {
        additions(&self.sums, floor)
    }

    /// Returns the holds of all calls whose rows are changed.
    fn groups<'a>(&'a self, additions: &[Addition<'_, K>], texts: &'a [String]) -> Vec<HoldGroup<'a>> {
        let (mut groups, mut begin) = (Vec::new(), 0);
        for same in self.calls.chunk_by(|one, other| one.request == other.request) {
            let end = begin + same.len();
            let place = |(key, _): (&K, i64)| additions.binary_search_by(|one| one.key.cmp(key)).ok();
            if let Some(call) = same.first()
                && let Some((key, amount)) = single(call)
                && let Some(addition) = place((key, amount))
                && let (Some(row_key), Some(tokens)) = (texts.get(addition), self.tokens.get(begin..end))
            {
                let first_id = self.id(begin);
                let ttl = micros(call.request.ttl);
                groups.push(HoldGroup { addition, first_id, tokens, row_key, amount, ttl });
            }
            begin = end;
        }
        groups
    }

    fn id(&self, position: usize) -> i64 {
        // Ids begin in the lower half of the integers, so none overflows.
        self.first_id.wrapping_add(position as i64)
    }

    /// Completes the calls on the rows that were changed, and returns the others. `changed` has the position
    /// of each addition and the time of the database.
    fn complete(self, floor: i64, changed: &[(usize, i64)], report: impl FnOnce(usize)) -> Vec<HoldCall<K>> {
        let ids: Vec<HoldId> = (0..)
            .zip(&self.tokens)
            .map(|(position, token)| HoldId { id: self.id(position), token: *token })
            .collect();
        let Self { calls, sums, .. } = self;
        let keys: Vec<&K> = additions(&sums, floor).iter().map(|addition| addition.key).collect();
        let times: BTreeMap<&K, i64> =
            changed.iter().filter_map(|(position, now)| Some((*keys.get(*position)?, *now))).collect();
        let (mut rest, mut held) = (Vec::new(), Vec::new());
        for (call, id) in calls.into_iter().zip(ids) {
            match single(&call).and_then(|(key, _)| times.get(key)) {
                None => rest.push(call.given_back()),
                Some(now) => {
                    let expires_at = now.saturating_add(micros(call.request.ttl));
                    held.push((call, HoldResult::Held { id, expires_at }));
                }
            }
        }
        report(held.len());
        for (call, taken) in held {
            call.complete(Ok(taken));
        }
        rest
    }
}

/// Returns the subtractions, each with the numbers that have enough.
fn additions<K>(sums: &BTreeMap<K, Option<i64>>, floor: i64) -> Vec<Addition<'_, K>> {
    let fitting = sums.iter().filter_map(|(key, sum)| Some((key, fitting(*sum, floor)?)));
    fitting.map(|(key, (delta, to))| Addition { key, delta, to }).collect()
}

/// Returns the row and the amount of a call for one row.
fn single<K: Ord>(call: &HoldCall<K>) -> Option<(&K, i64)> {
    let mut amounts = call.request.amounts.iter();
    let (key, amount) = amounts.next()?;
    amounts.next().is_none().then_some((key, *amount))
}

/// Returns the change, and the numbers from which it stays above the floor; `None` if there are none.
fn fitting(sum: Option<i64>, floor: i64) -> Option<(i64, RangeInclusive<i64>)> {
    let sum = sum?;
    Some((sum.checked_neg()?, floor.checked_add(sum)?..=i64::MAX))
}
