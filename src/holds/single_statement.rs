//! Holds in one round trip.

use std::collections::BTreeMap;
use std::future::ready;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;
use super::sql::{HoldId, HoldIds};
use super::taking::{Taken, micros};
use super::{Call, HoldKey, HoldTransactor};
use crate::backend::{Addition, Backend, HoldInOneStatement, HoldRecord, HoldRecords};
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
pub(super) struct SingleStatement<DB: Backend, K> {
    statement: Option<Box<dyn HoldInOneStatement<DB, K>>>,
    /// The number of batches that are still to skip the statement.
    skips: AtomicU32,
}

impl<DB: Backend, K: HoldKey<DB>> SingleStatement<DB, K> {
    pub(super) fn new(settings: &Settings) -> Self {
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
        calls: Vec<Call<K>>,
        report: impl FnOnce(usize),
    ) -> Vec<Call<K>> {
        let deadline = calls.iter().map(|call| call.deadline).max();
        let (Some(statement), Some(deadline)) = (&self.statement, deadline) else { return calls };
        if self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return calls;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let db = db.clone().options(Options::new().deadline(left).attempts(1));
        let sent = SentCalls { calls, sums: BTreeMap::new(), ids: Vec::new() };
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
                statement.hold(connection, &additions, &sent.records(&additions, &texts), &limits)
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
                sent.calls.into_iter().map(Call::given_back).collect()
            }
        }
    }
}

/// The calls of a statement.
struct SentCalls<K> {
    calls: Vec<Call<K>>,
    /// What the calls for one row take from it; `None` if it exceeds an `i64`.
    sums: BTreeMap<K, Option<i64>>,
    /// The ids of the holds, one for each call.
    ids: Vec<HoldId>,
}

impl<K: Ord + Clone> SentCalls<K> {
    /// Returns the time limit for each row lock: a hundredth of the shortest time left, so that the server
    /// responds before any deadline passes. `None` if that is too short.
    fn lock_timeout(&self) -> Option<Duration> {
        let first = self.calls.iter().map(|call| call.deadline).min()?;
        let limit = MAX_LOCK_WAIT.min(first.saturating_duration_since(Instant::now()) / 100);
        (limit >= Duration::from_millis(1)).then_some(limit)
    }

    /// Takes the calls, so that their callers can no longer give up, and sums those for a single row.
    fn take_batch(&mut self) {
        self.calls.retain_mut(Call::take);
        self.sums.clear();
        let mut ids = HoldIds::new();
        self.ids = self.calls.iter().map(|_| ids.next()).collect();
        for (key, amount) in self.calls.iter().filter_map(single) {
            let sum = self.sums.entry(key.clone()).or_insert(Some(0));
            *sum = sum.and_then(|sum| sum.checked_add(amount));
        }
    }

    fn additions(&self, floor: i64) -> Vec<Addition<'_, K>> {
        additions(&self.sums, floor)
    }

    fn records<'a>(&'a self, additions: &[Addition<'_, K>], texts: &'a [String]) -> Vec<HoldRecord<'a>> {
        let record = |(call, id): (&'a Call<K>, &HoldId)| {
            let (key, amount) = single(call)?;
            let addition = additions.binary_search_by(|one| one.key.cmp(key)).ok()?;
            let row_key = texts.get(addition)?;
            let ttl = micros(call.request.ttl);
            Some(HoldRecord { addition, id: id.id, token: id.token, row_key, amount, ttl })
        };
        self.calls.iter().zip(&self.ids).filter_map(record).collect()
    }

    /// Completes the calls on the rows that were changed, and returns the others. `changed` has the position
    /// of each addition and the time of the database.
    fn complete(self, floor: i64, changed: &[(usize, i64)], report: impl FnOnce(usize)) -> Vec<Call<K>> {
        let Self { calls, sums, ids } = self;
        let keys: Vec<&K> = additions(&sums, floor).iter().map(|addition| addition.key).collect();
        let times: BTreeMap<&K, i64> =
            changed.iter().filter_map(|(position, now)| Some((*keys.get(*position)?, *now))).collect();
        let (mut rest, mut held) = (Vec::new(), Vec::new());
        for (call, id) in calls.into_iter().zip(ids) {
            match single(&call).and_then(|(key, _)| times.get(key)) {
                None => rest.push(call.given_back()),
                Some(now) => {
                    let expires_at = now.saturating_add(micros(call.request.ttl));
                    held.push((call, Taken::Held { id, expires_at }));
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
fn single<K: Ord>(call: &Call<K>) -> Option<(&K, i64)> {
    let mut amounts = call.request.amounts.iter();
    let (key, amount) = amounts.next()?;
    amounts.next().is_none().then_some((key, *amount))
}

/// Returns the change, and the numbers from which it stays above the floor; `None` if there is no such number.
fn fitting(sum: Option<i64>, floor: i64) -> Option<(i64, RangeInclusive<i64>)> {
    let sum = sum?;
    Some((sum.checked_neg()?, floor.checked_add(sum)?..=i64::MAX))
}
