//! Holds in one round trip.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::request::HoldRequest;
use super::settings::HoldSettings;
use super::sql::HoldId;
use super::taking::{HoldResult, micros};
use super::{HoldCall, HoldKey, HoldTransactor};
use crate::backend::{
    Addition, Backend, Engine, HoldGroup, HoldInOneStatement, HoldRecords, short_lock_wait,
};
use crate::batching::{ChangedRows, SingleStatements, StatementBatch};
use crate::strategy::Limits;

/// Takes amounts and stores their holds in one round trip, commit included, if the database can.
///
/// It leaves the following to a [`Taking`](super::taking::Taking): calls for several rows; rows that do not
/// exist; all calls on a row that has not enough for all of them; calls that the database refuses; and all
/// calls if another session keeps a row locked.
pub(super) struct SingleHoldStatement<DB: Backend, K> {
    statement: Option<Box<dyn HoldInOneStatement<DB, K>>>,
    sender: SingleStatements,
}

impl<DB: Backend, K: HoldKey<DB>> SingleHoldStatement<DB, K> {
    pub(super) fn new(settings: &HoldSettings) -> Self {
        let is_allowed = settings.single_statement && !settings.options.requires_transaction();
        let records = HoldRecords { name: &settings.name, schema: settings.schema() };
        let statement = is_allowed.then(|| DB::hold_in_one_statement(settings.target, records)).flatten();
        Self { statement, sender: SingleStatements::default() }
    }

    /// Runs and completes calls, after it has reported how many holds are stored. Returns the calls that are
    /// left to a transaction.
    pub(super) async fn apply(
        &self,
        db: &HoldTransactor<DB>,
        floor: i64,
        calls: Vec<HoldCall<K>>,
        report: impl FnOnce(usize) + Send,
    ) -> Vec<HoldCall<K>> {
        let Some(statement) = self.statement.as_deref() else { return calls };
        self.sender.apply(db, statement.sql(), SentHolds::new(statement, floor, calls, report)).await
    }
}

/// The calls of a statement.
struct SentHolds<'s, DB: Backend, K, R> {
    statement: &'s dyn HoldInOneStatement<DB, K>,
    floor: i64,
    /// Those with the same row, amount and time follow one another.
    calls: Vec<HoldCall<K>>,
    /// What the calls for one row take from it; `None` if it exceeds an `i64`.
    sums: BTreeMap<K, Option<i64>>,
    /// The id of the first call's hold. Those of the others follow.
    first_id: i64,
    /// The tokens, one for each call.
    tokens: Vec<i64>,
    /// Receives the number of holds that are stored.
    report: R,
}

impl<'s, DB: Backend, K: Ord + Clone, R> SentHolds<'s, DB, K, R> {
    fn new(
        statement: &'s dyn HoldInOneStatement<DB, K>,
        floor: i64,
        mut calls: Vec<HoldCall<K>>,
        report: R,
    ) -> Self {
        // The order of arrival does not matter, because all calls on a row are held or none.
        calls.sort_by(|one, other| one.request.cmp(&other.request));
        Self { statement, floor, calls, sums: BTreeMap::new(), first_id: 0, tokens: Vec::new(), report }
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
}

impl<DB: Backend, K: HoldKey<DB>, R: FnOnce(usize) + Send> StatementBatch<DB> for SentHolds<'_, DB, K, R> {
    type Key = K;
    type Request = HoldRequest<K>;
    type Outcome = HoldResult;

    fn calls(&mut self) -> &mut Vec<HoldCall<K>> {
        &mut self.calls
    }

    /// Sums the calls for a single row.
    fn sum(&mut self) {
        self.sums.clear();
        (self.first_id, self.tokens) = HoldId::batch(self.calls.len());
        for (key, amount) in self.calls.iter().filter_map(single) {
            let sum = self.sums.entry(key.clone()).or_insert(Some(0));
            *sum = sum.and_then(|sum| sum.checked_add(amount));
        }
    }

    fn runs_on(&self, engine: &Engine) -> bool {
        engine.adds_in_one_statement()
    }

    fn lock_wait(&self, left: Duration) -> Option<Duration> {
        short_lock_wait(left)
    }

    fn rows(&self) -> usize {
        self.sums.len()
    }

    fn send<'c>(
        &self,
        connection: &'c mut DB::Connection,
        limits: &Limits,
    ) -> Option<BoxFuture<'c, Result<ChangedRows, sqlx::Error>>> {
        let additions = additions(&self.sums, self.floor);
        if additions.is_empty() {
            return None;
        }
        let texts: Vec<String> = additions.iter().map(|one| one.key.to_string()).collect();
        Some(self.statement.hold(connection, &additions, &self.groups(&additions, &texts), limits))
    }

    /// `changed` has the position of each addition and the time of the database.
    fn complete(self, changed: &[(usize, i64)]) -> Vec<HoldCall<K>> {
        let ids: Vec<HoldId> = (0..)
            .zip(&self.tokens)
            .map(|(position, token)| HoldId { id: self.id(position), token: *token })
            .collect();
        let Self { calls, sums, floor, report, .. } = self;
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
