//! Additions to the numbers of rows.

use sqlx::error::BoxDynError;
use sqlx::mysql::MySqlArguments;
use sqlx::{Arguments as _, AssertSqlSafe, MySql, SqlSafeStr as _};

use crate::backend::additions::{AdditionSql, Target};
use crate::backend::codec::Key;
use crate::backend::query::WatchedQuery;

impl AdditionSql for MySql {
    /// Uses CASE and not a join with a list of values, because a join would not compare text keys by the
    /// column's collation.
    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, BoxDynError> {
        let Target { table, key, column } = target;
        let mut arguments = MySqlArguments::default();
        for (id, delta) in changes {
            arguments.add(*id)?;
            arguments.add(*delta)?;
        }
        for (id, _) in changes {
            arguments.add(*id)?;
        }
        let (cases, ids) = (" WHEN ? THEN ?".repeat(changes.len()), vec!["?"; changes.len()].join(", "));
        let sql =
            format!("UPDATE {table} SET {column} = {column} + CASE {key}{cases} END WHERE {key} IN ({ids})");
        Ok(WatchedQuery::with_arguments(AssertSqlSafe(sql).into_sql_str(), arguments))
    }
}
