//! The rows of the caller's table, and their numbers.

use std::collections::BTreeMap;
use std::iter::repeat;

use sqlx::{Arguments as _, AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::HoldSql;
use crate::backend::{Backend, Key, Target, WatchedQuery, required};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::tx::{Tx, explain_key};

/// The numbers in a column.
#[derive(Debug, Clone, Copy)]
pub(in crate::holds) struct NumberColumn {
    pub(in crate::holds) target: Target,
    /// Whether connections cache the prepared statements.
    pub(in crate::holds) persistent: bool,
}

/// The number of each row that exists; `None` if it is not an integer in range.
type Found<K> = BTreeMap<K, Option<i64>>;

impl NumberColumn {
    /// Locks the rows in the order of their keys, and returns their numbers.
    pub(in crate::holds) async fn lock<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        keys: &[K],
    ) -> Result<Found<K>, Error> {
        let select = tx.for_update(self.select::<DB>(keys.len()));
        Ok(self.fetch(tx, select, keys).await?.0)
    }

    /// Changes the numbers of locked rows by these amounts, and returns the time of the database, in
    /// microseconds since 1970. `found` has the numbers of all rows that are locked.
    ///
    /// A database may store a number other than the sum, without an error: clipped to the range of the
    /// column, rounded by a floating-point type, or changed by a trigger. Only a separate statement sees the
    /// effect of triggers, so the rows are read again.
    pub(in crate::holds) async fn change<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        found: &Found<K>,
        changes: &BTreeMap<K, i64>,
    ) -> Result<i64, Error> {
        let mut listed: Vec<(&K, i64)> = changes.iter().map(|(key, change)| (key, *change)).collect();
        let count = listed.len();
        if let Some((last, _)) = listed.last().copied() {
            listed.resize(count.next_power_of_two(), (last, 0));
        }
        let update = DB::add_to_rows(self.target, &listed).map_err(sqlx::Error::Encode)?;
        let affected = tx.execute_query(update.persistent_if(self.persistent)).await?;
        if affected != count as u64 {
            return Err(aborted(format!(
                "{count} rows were locked to be changed, and {affected} were: is there a trigger or a policy?"
            )));
        }
        let keys: Vec<K> = changes.keys().cloned().collect();
        let (stored, now) = self.fetch(tx, self.select::<DB>(keys.len()), &keys).await?;
        let is_sum = |(key, change): (&K, &i64)| {
            let before = found.get(key).copied().flatten();
            stored.get(key).copied().flatten() == before.and_then(|before| before.checked_add(*change))
        };
        if changes.iter().all(is_sum) { Ok(now) } else { Err(self.other_number()) }
    }

    /// Returns the query for the numbers of rows, in the order of the keys, each with the time.
    fn select<DB: Backend>(self, keys: usize) -> SqlStr {
        let Target { table, key, column } = self.target;
        let (integer, now) = (DB::INTEGER_TYPE, HoldSql::of::<DB>().now);
        let placeholders = (1..=keys.next_power_of_two()).map(DB::placeholder).collect::<Vec<_>>().join(", ");
        let select = format!(
            "SELECT {key}, \
             CASE WHEN CAST({column} AS {integer}) = {column} THEN CAST({column} AS {integer}) END, {now} \
             FROM {table} WHERE {key} IN ({placeholders}) ORDER BY {key}"
        );
        AssertSqlSafe(select).into_sql_str()
    }

    async fn fetch<DB: Backend, K: Key<DB>>(
        self,
        tx: &mut Tx<DB>,
        select: SqlStr,
        keys: &[K],
    ) -> Result<(Found<K>, i64), Error> {
        let Target { table, key: column, .. } = self.target;
        let Some(last) = keys.last() else { return Ok((Found::new(), 0)) };
        let mut arguments = DB::Arguments::default();
        // The last key is repeated, so that few different texts are prepared.
        for key in keys.iter().chain(repeat(last)).take(keys.len().next_power_of_two()) {
            arguments.add(key).map_err(sqlx::Error::Encode)?;
        }
        let query = WatchedQuery::with_arguments(select, arguments).persistent_if(self.persistent);
        let explained = |error: sqlx::Error| explain_key::<DB, K>(error.into(), table, column);
        let rows = tx.fetch_rows(query).await.map_err(explained)?;
        let (mut found, mut now) = (Found::new(), 0);
        for row in &rows {
            found.insert(DB::key(row, 0).map_err(explained)?, DB::integer(row, 1)?);
            now = required(DB::integer(row, 2)?, 2)?;
        }
        if found.len() < rows.len() {
            return Err(aborted(format!("several rows of {table} have the same {column}")));
        }
        Ok((found, now))
    }

    /// The error of a number that is not an integer in range.
    pub(in crate::holds) fn not_an_integer(self) -> Error {
        let Target { table, column, .. } = self.target;
        aborted(format!("{column} of this row of {table} holds no integer that fits an i64"))
    }

    fn other_number(self) -> Error {
        let Target { table, column, .. } = self.target;
        aborted(format!(
            "nothing was stored, because the row would have held another number than the difference: \
             {column} of {table} is of a type that cannot hold it, or a trigger changes it"
        ))
    }
}

fn aborted(message: String) -> Error {
    Error::failed(Failure::new(FailureKind::Aborted, message), None)
}
