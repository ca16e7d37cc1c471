//! A batch of calls as a unit of work.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use sqlx::{Arguments as _, AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::backend::{Backend, Capability, Key, Target, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::transactor::{Decision, Ended, Unit};
use crate::tx::{Tx, explain_key};

use super::{AdditionCall, DeltaOutcome, Settings};

type CallResults<K> = Vec<(AdditionCall<K>, Result<DeltaOutcome, Error>)>;

/// A unit of work that applies calls in the order of their arrival.
pub(super) struct Batch<'a, K> {
    settings: &'a Settings,
    calls: Vec<AdditionCall<K>>,
    /// The outcomes of the last attempt, one for each call; `None` for a call that was withdrawn.
    outcomes: Vec<Option<Result<DeltaOutcome, Error>>>,
    error: Option<Error>,
}

impl<'a, K> Batch<'a, K> {
    pub(super) fn new(settings: &'a Settings, calls: Vec<AdditionCall<K>>) -> Self {
        Self { settings, calls, outcomes: Vec::new(), error: None }
    }

    /// Returns the calls with their results, or the calls with the error that they all share, without those
    /// that were withdrawn.
    pub(super) fn end(
        self,
        ended: Result<Ended, Error>,
    ) -> Result<CallResults<K>, (Vec<AdditionCall<K>>, Error)> {
        let error = match (ended, self.error) {
            (Ok(Ended::Committed), _) => {
                let results = self.calls.into_iter().zip(self.outcomes);
                return Ok(results.filter_map(|(call, outcome)| Some((call, outcome?))).collect());
            }
            (Ok(Ended::RolledBack), Some(error)) | (Err(error), _) => error,
            (Ok(Ended::RolledBack), None) => Error::transactor_broke_its_contract(),
        };
        Err((self.calls.into_iter().filter(AdditionCall::is_wanted).collect(), error))
    }
}

#[async_trait]
impl<DB: Backend, K: Key<DB>> Unit<DB> for Batch<'_, K> {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        self.error = self.apply(tx).await.err();
        if self.error.is_none() { Decision::Commit } else { Decision::RollBack }
    }
}

impl<K: Ord + Clone + Send + Sync> Batch<'_, K> {
    async fn apply<DB: Backend>(&mut self, tx: &mut Tx<DB>) -> Result<(), Error>
    where
        K: Key<DB>,
    {
        self.outcomes.clear();
        let wanted = self.calls.iter().filter(|call| call.is_wanted()).map(|call| call.key.clone());
        let keys: Vec<K> = wanted.collect::<BTreeSet<K>>().into_iter().collect();
        let mut locked = BTreeMap::new();
        for keys in keys.chunks(most_keys(tx)) {
            let select = tx.for_update(self.select::<DB>(keys));
            locked.extend(self.read(tx, select, keys).await?);
        }
        let mut rows: BTreeMap<K, LockedRow> =
            locked.into_iter().map(|(key, value)| (key, LockedRow { value, change: 0 })).collect();
        // While the batch waited for locks, callers may have given up. From here on, they cannot.
        for call in &mut self.calls {
            let outcome = call.take().then(|| match rows.get_mut(&call.key) {
                None => Ok(DeltaOutcome::NotFound),
                Some(row) => row
                    .add(call.request, &self.settings.bounds)
                    .ok_or_else(|| not_an_integer(self.settings.target)),
            });
            self.outcomes.push(outcome);
        }
        let changed = rows.iter().filter(|(_, row)| row.change != 0);
        let changes: Option<Vec<_>> =
            changed.map(|(key, row)| Some((key, i64::try_from(row.change).ok()?))).collect();
        match changes {
            Some(changes) if changes.is_empty() => Ok(()),
            Some(changes) => {
                self.write(tx, changes).await?;
                self.check(tx, &keys, &rows).await
            }
            None => Err(aborted("the changes of one row add up to more than fits an integer".into())),
        }
    }

    /// Returns the query for the values of the rows with these keys, in the order of the keys.
    fn select<DB: Backend>(&self, keys: &[K]) -> SqlStr {
        let Target { table, key, column } = self.settings.target;
        let (placeholders, integer) = (1..=listed(keys), DB::INTEGER_TYPE);
        let placeholders = placeholders.map(DB::placeholder).collect::<Vec<_>>().join(", ");
        let select = format!(
            "SELECT {key}, \
             CASE WHEN CAST({column} AS {integer}) = {column} THEN CAST({column} AS {integer}) END \
             FROM {table} WHERE {key} IN ({placeholders}) ORDER BY {key}"
        );
        AssertSqlSafe(select).into_sql_str()
    }

    /// Reads the value of each row that exists; `None` if it is not an integer in range.
    async fn read<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        select: SqlStr,
        keys: &[K],
    ) -> Result<BTreeMap<K, Option<i64>>, Error>
    where
        K: Key<DB>,
    {
        let Settings { target: Target { table, key: column, .. }, persistent, .. } = *self.settings;
        let Some(last) = keys.last() else { return Ok(BTreeMap::new()) };
        let mut arguments = DB::Arguments::default();
        for key in keys.iter().chain(repeat(last)).take(listed(keys)) {
            arguments.add(key).map_err(sqlx::Error::Encode)?;
        }
        let found = tx
            .fetch_numbers::<K>(WatchedQuery::with_arguments(select, arguments).persistent_if(persistent))
            .await
            .map_err(|error| explain_key::<DB, K>(error.into(), table, column))?;
        let count = found.len();
        let rows: BTreeMap<K, Option<i64>> = found.into_iter().collect();
        if rows.len() < count {
            return Err(aborted(format!("several rows of {table} have the same {column}")));
        }
        Ok(rows)
    }

    /// Compares the values in the rows after the update with the results of the calls.
    ///
    /// A database may store a number other than the sum, without an error: clipped to the range of the
    /// column, rounded by a floating-point type, or changed by a trigger. Only a separate statement sees
    /// the effect of triggers that run after the update.
    async fn check<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        keys: &[K],
        rows: &BTreeMap<K, LockedRow>,
    ) -> Result<(), Error>
    where
        K: Key<DB>,
    {
        let stored = self.read(tx, self.select::<DB>(keys), keys).await?;
        let holds = |(key, row): (&K, &LockedRow)| stored.get(key) == Some(&row.value);
        if rows.iter().all(holds) { Ok(()) } else { Err(other_number(self.settings.target)) }
    }

    async fn write<DB: Backend>(&self, tx: &mut Tx<DB>, mut changes: Vec<(&K, i64)>) -> Result<(), Error>
    where
        K: Key<DB>,
    {
        let rows = changes.len();
        if let Some((last, _)) = changes.last().copied() {
            changes.resize(rows.next_power_of_two(), (last, 0));
        }
        let update = DB::add_to_rows(self.settings.target, &changes).map_err(sqlx::Error::Encode)?;
        let affected = tx.execute_query(update.persistent_if(self.settings.persistent)).await?;
        if affected == rows as u64 {
            return Ok(());
        }
        Err(aborted(format!(
            "{rows} rows were locked to be changed, and {affected} were: is there a trigger or a policy?"
        )))
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

/// Returns how many rows one statement may lock.
fn most_keys<DB: Backend>(tx: &Tx<DB>) -> usize {
    if tx.engine().has(Capability::LocksOfManyRows) { usize::MAX } else { 1 }
}

/// Returns how many keys a statement lists for these keys. The last key is repeated up to that number, so
/// that few different texts are prepared.
fn listed<K>(keys: &[K]) -> usize {
    keys.len().next_power_of_two()
}

fn aborted(message: String) -> Error {
    Error::failed(Failure::new(FailureKind::Aborted, message), None)
}

fn other_number(target: Target) -> Error {
    let Target { table, column, .. } = target;
    aborted(format!(
        "nothing was stored, because the row would have held another number than the sum: {column} of \
         {table} is of a type that cannot hold it, or a trigger changes it"
    ))
}

fn not_an_integer(target: Target) -> Error {
    let Target { table, column, .. } = target;
    aborted(format!("{column} of this row of {table} holds no integer that fits an i64"))
}
