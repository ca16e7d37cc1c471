//! Additions to the numbers of rows.

use sqlx::error::BoxDynError;
use sqlx::mysql::MySqlArguments;
use sqlx::{Arguments as _, AssertSqlSafe, MySql, SqlSafeStr as _};

use crate::backend::additions::{AdditionSql, Target};
use crate::backend::codec::Key;
use crate::backend::engine::{Engine, EngineProduct};
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

    const ADDS_AT_COMMIT: bool = true;

    /// Other products are not known to have the variables and prepared statements of the texts.
    fn adds_at_commit(engine: &Engine) -> bool {
        matches!(engine.product(), EngineProduct::MySql | EngineProduct::MariaDb)
    }

    /// Fails with an integer that is out of range, like the check of
    /// [`fold`](crate::backend::folded::FoldedSql::fold).
    fn check_numbers<K: Key<Self>>(
        target: Target,
        numbers: &[(&K, i64)],
    ) -> Option<Result<WatchedQuery<Self>, BoxDynError>> {
        let Target { table, key, column } = target;
        let count = numbers.len();
        let (cases, ids) = (" WHEN ? THEN ?".repeat(count), vec!["?"; count].join(", "));
        let sql = format!(
            "SELECT IF(COUNT(*) = {count}, 1, 9223372036854775807 + COUNT(*) + 1) FROM {table} \
             WHERE {key} IN ({ids}) AND CAST({column} AS SIGNED) = {column} \
             AND CAST({column} AS SIGNED) = CASE {key}{cases} END"
        );
        let arguments = arguments_of_check(numbers);
        Some(
            arguments
                .map(|arguments| WatchedQuery::with_arguments(AssertSqlSafe(sql).into_sql_str(), arguments)),
        )
    }
}

/// Returns the keys, and then each key with its number.
fn arguments_of_check<K: Key<MySql>>(numbers: &[(&K, i64)]) -> Result<MySqlArguments, BoxDynError> {
    let mut arguments = MySqlArguments::default();
    for (id, _) in numbers {
        arguments.add(*id)?;
    }
    for (id, number) in numbers {
        arguments.add(*id)?;
        arguments.add(*number)?;
    }
    Ok(arguments)
}
