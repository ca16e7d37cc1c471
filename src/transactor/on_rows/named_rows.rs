//! The rows that a unit names, and the query for them.

use std::collections::BTreeMap;

use sqlx::Row as _;

use crate::backend::{Backend, Engine, Key, SyntheticError, WatchedQuery};
use crate::error::Error;
use crate::failure::Failure;
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::strategy::Plan;
use crate::tx::{MAX_KEPT_KEYS, MAX_KEYS, RowRequest, Tx, explain_key, explain_key_failure, select_keys};

/// The name of the column that identifies the rows in the result.
const KEY_COLUMN: &str = "atomically_key";

/// The rows that a unit names.
pub(super) struct NamedRows<K> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    /// The columns to read, if the unit wants to see any.
    pub(super) columns: Option<&'static str>,
    /// The keys, in the caller's order.
    pub(super) keys: Vec<K>,
}

impl<DB: Backend, K: Key<DB>> RowRequest<DB> for NamedRows<K> {
    fn query(&self, engine: &Engine, plan: &Plan) -> Option<Result<WatchedQuery<DB>, sqlx::Error>> {
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        keys.dedup();
        let is_only_named = plan.isolation == Isolation::Serializable && plan.row_lock.is_none();
        if keys.is_empty() || keys.len() > MAX_KEYS || (is_only_named && self.columns.is_none()) {
            return None;
        }
        // The statement reads one table, so it need not be named.
        let lock = plan.row_lock.map(|lock| RowLock { table: None, ..lock });
        let clause = match lock.map_or(Ok(None), |lock| DB::lock_clause(engine, lock)) {
            Ok(clause) => clause,
            Err(failure) => return Some(Err(SyntheticError::Failed(failure).into())),
        };
        let key = format!("{} AS {KEY_COLUMN}", self.column);
        // The key comes last: rows may be decoded by position.
        let columns = self.columns.map_or_else(|| key.clone(), |columns| format!("{columns}, {key}"));
        let query = select_keys::<DB, K>(self.table, &columns, self.column, &keys, clause.as_deref());
        Some(query.map(|query| query.persistent_if(keys.len() <= MAX_KEPT_KEYS)))
    }

    fn explain(&self, failure: Failure) -> Failure {
        explain_key_failure::<DB, K>(failure, self.table, self.column)
    }
}

impl<K> NamedRows<K> {
    /// Returns the rows by their keys, or an error if one is missing. Empty if the plan needs none.
    pub(super) async fn read<DB: Backend>(&self, tx: &mut Tx<DB>) -> Result<BTreeMap<K, DB::Row>, Error>
    where
        K: Key<DB>,
    {
        if self.keys.len() > MAX_KEYS {
            let message = format!("`on_rows` takes at most {MAX_KEYS} keys, and got {}", self.keys.len());
            return Err(Error::invalid_input(message));
        }
        let explain = |error: sqlx::Error| explain_key::<DB, K>(error.into(), self.table, self.column);
        let mut found = BTreeMap::new();
        let Some(rows) = tx.requested_rows(self).await.map_err(explain)? else { return Ok(found) };
        for row in rows {
            let key = DB::key(&row, row.len().saturating_sub(1)).map_err(explain)?;
            found.insert(key, row);
        }
        let is_missing = |(_, key): &(usize, &K)| !found.contains_key(*key);
        let missing: Vec<usize> = self.keys.iter().enumerate().filter(is_missing).map(|(at, _)| at).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        Err(Error::missing_rows_of(self.table, self.column, missing))
    }
}
