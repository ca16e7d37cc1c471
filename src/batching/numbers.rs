//! The column that batches lock, change and check.

use std::collections::BTreeMap;
use std::iter::repeat;
use std::sync::Arc;

use sqlx::{Arguments as _, AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::backend::{Backend, Capability, Engine, Key, SyntheticError, Target, WatchedQuery, required};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::strategy::Plan;
use crate::tx::{Expectation, RowRequest, Tx, explain_key, explain_key_failure, locked};

/// A column of numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NumberColumn {
    pub(crate) target: Target,
    /// Whether connections cache the prepared statements.
    pub(crate) persistent: bool,
    /// Whether values may be written into the texts that begin and commit.
    pub(crate) shares_texts: bool,
    /// What is to be stored, for messages: the sum or the difference.
    pub(crate) result: &'static str,
    /// An integer to read with each number, such as the time.
    pub(crate) also: Option<&'static str>,
}

/// The number of each row that exists; `None` if it is not an integer in range.
pub(crate) type Found<K> = BTreeMap<K, Option<i64>>;

/// What was read from rows.
pub(crate) struct NumbersRead<K> {
    pub(crate) found: Found<K>,
    /// The last integer that was read with the numbers; `None` if there is none.
    pub(crate) also: Option<i64>,
}

impl NumberColumn {
    /// Returns the request with which the opening of a transaction locks and reads these rows; `None` if a
    /// statement of its own does.
    pub(crate) fn request<DB: Backend, K: Key<DB>>(self, keys: Vec<K>) -> Option<Arc<dyn RowRequest<DB>>> {
        let is_part_of_opening = DB::ADDS_AT_COMMIT && self.shares_texts && !keys.is_empty();
        is_part_of_opening.then(|| Arc::new(NumberRequest { column: self, keys }) as _)
    }

    /// Locks the rows in the order of their keys, and returns their numbers. If the opening has locked rows,
    /// returns those, which may be more.
    pub(crate) async fn lock<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        keys: &[K],
    ) -> Result<NumbersRead<K>, Error> {
        if let Some(rows) = tx.rows_of_opening() {
            return self.decoded::<DB, K>(&rows);
        }
        let most = if tx.engine().has(Capability::LocksOfManyRows) { usize::MAX } else { 1 };
        let mut read = NumbersRead { found: Found::new(), also: None };
        for keys in keys.chunks(most) {
            let select = tx.for_update(self.select::<DB>(keys.len()));
            let NumbersRead { found, also } = self.fetch(tx, select, keys).await?;
            read.found.extend(found);
            read.also = also.or(read.also);
        }
        Ok(read)
    }

    /// Changes the numbers of locked rows by these amounts. The transaction commits only if the rows then
    /// hold `sums`. Returns what was read with them; `None` if the server checks them at the commit.
    ///
    /// A database may store a number other than the sum, without an error: clipped to the range of the
    /// column, rounded by a floating-point type, or changed by a trigger. Only a separate statement sees the
    /// effect of triggers that run after the update.
    pub(crate) async fn change<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        mut changes: Vec<(&K, i64)>,
        sums: &Found<K>,
    ) -> Result<Option<i64>, Error> {
        let count = changes.len();
        if let Some((last, _)) = changes.last().copied() {
            changes.resize(count.next_power_of_two(), (last, 0));
        }
        let update = DB::add_to_rows(self.target, &changes).map_err(sqlx::Error::Encode)?;
        let update = update.persistent_if(self.persistent);
        if self.keep::<DB, K>(tx, &update, sums)? {
            return Ok(None);
        }
        let affected = tx.execute_query(update).await?;
        if affected != count as u64 {
            return Err(aborted(format!(
                "{count} rows were locked to be changed, and {affected} were: is there a trigger or a policy?"
            )));
        }
        let keys: Vec<K> = sums.keys().cloned().collect();
        let stored = self.fetch(tx, self.select::<DB>(keys.len()), &keys).await?;
        let is_stored = |(key, sum): (&K, &Option<i64>)| stored.found.get(key) == Some(sum);
        if sums.iter().all(is_stored) {
            Ok(stored.also)
        } else {
            Err(Error::failed(self.other_number(), None))
        }
    }

    /// Keeps the update, and the check of its result, for the commit. Returns whether it has.
    fn keep<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        update: &WatchedQuery<DB>,
        sums: &Found<K>,
    ) -> Result<bool, Error> {
        if !self.shares_texts || !tx.shares_texts() || !DB::adds_at_commit(&tx.engine()) {
            return Ok(false);
        }
        let sums: Vec<(&K, i64)> = sums.iter().filter_map(|(key, sum)| Some((key, (*sum)?))).collect();
        if sums.is_empty() {
            return Ok(false);
        }
        let Some(check) = DB::check_numbers(self.target, &sums) else { return Ok(false) };
        let check = check.map_err(sqlx::Error::Encode)?;
        Ok(tx.keep_queries(vec![
            (update.clone(), Expectation::Success),
            (check, Expectation::Check(self.other_number())),
        ]))
    }

    /// Returns the query for the numbers of rows, in the order of the keys.
    fn select<DB: Backend>(self, keys: usize) -> SqlStr {
        let Target { table, key, column } = self.target;
        let integer = DB::INTEGER_TYPE;
        let placeholders = (1..=keys.next_power_of_two()).map(DB::placeholder).collect::<Vec<_>>().join(", ");
        let also = self.also.map(|also| format!(", {also}")).unwrap_or_default();
        let select = format!(
            "SELECT {key}, \
             CASE WHEN CAST({column} AS {integer}) = {column} THEN CAST({column} AS {integer}) END{also} \
             FROM {table} WHERE {key} IN ({placeholders}) ORDER BY {key}"
        );
        AssertSqlSafe(select).into_sql_str()
    }

    fn query<DB: Backend, K: Key<DB>>(
        self,
        select: SqlStr,
        keys: &[K],
    ) -> Result<WatchedQuery<DB>, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        // The last key is repeated, so that few different texts are prepared.
        let last = keys.last().into_iter().flat_map(repeat);
        for key in keys.iter().chain(last).take(keys.len().next_power_of_two()) {
            arguments.add(key).map_err(sqlx::Error::Encode)?;
        }
        Ok(WatchedQuery::with_arguments(select, arguments).persistent_if(self.persistent))
    }

    async fn fetch<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        select: SqlStr,
        keys: &[K],
    ) -> Result<NumbersRead<K>, Error> {
        let query = self.query::<DB, K>(select, keys)?;
        let rows = tx.fetch_rows(query).await.map_err(|error| self.explained::<DB, K>(error))?;
        self.decoded::<DB, K>(&rows)
    }

    fn decoded<DB: Backend, K: Key<DB>>(self, rows: &[DB::Row]) -> Result<NumbersRead<K>, Error> {
        let mut read = NumbersRead { found: Found::new(), also: None };
        for row in rows {
            let key = DB::key(row, 0).map_err(|error| self.explained::<DB, K>(error))?;
            read.found.insert(key, DB::integer(row, 1)?);
            if self.also.is_some() {
                read.also = Some(required(DB::integer(row, 2)?, 2)?);
            }
        }
        if read.found.len() < rows.len() {
            let Target { table, key, .. } = self.target;
            return Err(aborted(format!("several rows of {table} have the same {key}")));
        }
        Ok(read)
    }

    fn explained<DB: Backend, K: Key<DB>>(self, error: sqlx::Error) -> Error {
        explain_key::<DB, K>(error.into(), self.target.table, self.target.key)
    }

    /// The error of a number that is not an integer in range.
    pub(crate) fn not_an_integer(self) -> Error {
        let Target { table, column, .. } = self.target;
        aborted(format!("{column} of this row of {table} holds no integer that fits an i64"))
    }

    fn other_number(self) -> Failure {
        let Self { target: Target { table, column, .. }, result, .. } = self;
        let message = format!(
            "nothing was stored, because the row would have held another number than the {result}: {column} \
             of {table} is of a type that cannot hold it, or a trigger changes it"
        );
        Failure::new(FailureKind::Aborted, message)
    }
}

/// Returns the sums of the numbers that were found and their changes; `None` if it is not an integer in
/// range.
#[cfg(feature = "holds")]
pub(crate) fn sums<K: Ord + Clone>(found: &Found<K>, changes: &BTreeMap<K, i64>) -> Found<K> {
    let sum = |key, change: i64| found.get(key).copied().flatten()?.checked_add(change);
    changes.iter().map(|(key, change)| (key.clone(), sum(key, *change))).collect()
}

/// The rows that the opening of a transaction locks and reads.
struct NumberRequest<K> {
    column: NumberColumn,
    keys: Vec<K>,
}

impl<DB: Backend, K: Key<DB>> RowRequest<DB> for NumberRequest<K> {
    fn query(&self, engine: &Engine, plan: &Plan) -> Option<Result<WatchedQuery<DB>, sqlx::Error>> {
        if !DB::adds_at_commit(engine) {
            return None;
        }
        let select = self.column.select::<DB>(self.keys.len());
        let select = match locked::<DB>(engine, plan.row_lock, &select) {
            Ok(Some(locked)) => AssertSqlSafe(locked).into_sql_str(),
            Ok(None) => select,
            Err(failure) => return Some(Err(SyntheticError::Failed(failure).into())),
        };
        Some(self.column.query::<DB, K>(select, &self.keys))
    }

    fn explain(&self, failure: Failure) -> Failure {
        explain_key_failure::<DB, K>(failure, self.column.target.table, self.column.target.key)
    }
}

pub(crate) fn aborted(message: String) -> Error {
    Error::failed(Failure::new(FailureKind::Aborted, message), None)
}
