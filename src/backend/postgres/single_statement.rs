//! Additions that are checked and made in one round trip.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, SqlSafeStr as _, SqlStr};

use super::bound_keys::BoundKeys;
use super::literals::numbers;
use super::prepared::PreparedStatement;
use crate::backend::additions::{AddInOneStatement, Addition, Target};
use crate::backend::codec::Key;
use crate::digest::digest;
use crate::strategy::Limits;

/// The settings of the statement's transaction.
///
/// Planning takes longer than executing, but the server would plan each list of values anew, because it
/// estimates that to be cheaper. The settings therefore force a generic plan. It has to suit growing tables
/// too, so it looks up each row by its key.
pub(super) const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                        SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
                        SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// Types that either store a sum exactly or fail. Floating point rounds the sum.
const EXACT: &str = "('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'numeric'::regtype)";

/// The condition that a changed table can store another number than the sum: because of a user's trigger,
/// unless it runs before the update and per statement (bits of `tgtype`: 1 per row, 2 before, 16 update), or
/// because of a `numeric` that rounds to tens.
pub(super) const MAY_CHANGE_SUM: &str = "EXISTS (SELECT FROM pg_catalog.pg_trigger \
         WHERE tgrelid IN (SELECT relation FROM changed) AND NOT tgisinternal \
         AND tgtype & 16 = 16 AND tgtype & 3 <> 2) \
     OR EXISTS (SELECT FROM pg_catalog.pg_attribute \
         WHERE attrelid IN (SELECT relation FROM changed) AND atttypid = 'numeric'::regtype \
         AND atttypmod >= 4 AND (atttypmod - 4) & 1024 = 1024)";

/// The condition that another user of the pool has left a transaction open on the connection: the statement
/// would be reported as stored, and undone by the rollback that ends it.
pub(super) const IS_IN_OPEN_TRANSACTION: &str = "transaction_timestamp() <> statement_timestamp()";

/// Adds to the rows whose numbers are within the requested range, in one statement.
///
/// # Why does it not lock the rows first?
///
/// A row lock is written to the row and to the log like a change, and is nearly as expensive.
struct AddStatement {
    prepared: Arc<PreparedStatement>,
    sql: SqlStr,
    keys: BoundKeys,
}

/// Returns the statement; `None` if values of the key's type cannot be written into a text.
pub(super) fn statement<K: Key<Postgres>>(target: Target) -> Option<Box<dyn AddInOneStatement<Postgres, K>>> {
    let keys = BoundKeys::of::<K>()?;
    let column = target.column;
    // The division by zero makes the statement fail if several rows have the same key, if it is not a
    // transaction of its own, or if the table can store another number than the sum: `RETURNING` returns
    // neither the previous number nor the one that a trigger stores later.
    let update = update(
        target,
        keys,
        &format!(
            "addition.place, CAST(target.{column} AS BIGINT) - addition.delta AS before, \
             target.tableoid AS relation"
        ),
    );
    let sql = format!(
        "WITH changed AS ({update}) SELECT place, before, \
         1 / CASE WHEN count(*) OVER (PARTITION BY place) <> 1 \
         OR {IS_IN_OPEN_TRANSACTION} OR {MAY_CHANGE_SUM} THEN 0 ELSE 1 END FROM changed"
    );
    let name = format!("add {}", digest(&sql));
    let parameters = format!("{}[], bigint[], bigint[], bigint[]", keys.name());
    let prepared = Arc::new(PreparedStatement::new(&name, &parameters, sql.clone()));
    Some(Box::new(AddStatement { prepared, sql: AssertSqlSafe(sql).into_sql_str(), keys }))
}

impl<K: Key<Postgres>> AddInOneStatement<Postgres, K> for AddStatement {
    fn sql(&self) -> SqlStr {
        self.sql.clone()
    }

    fn add<'c>(
        &self,
        connection: &'c mut PgConnection,
        additions: &[Addition<'_, K>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>> {
        let arguments = arguments(self.keys, additions);
        let (prepared, limits) = (self.prepared.clone(), *limits);
        Box::pin(async move {
            let arguments = arguments.map_err(sqlx::Error::Encode)?;
            let rows = prepared.fetch(connection, SETTINGS, limits, &arguments).await?;
            let place_and_number = |row: &sqlx::postgres::PgRow| {
                let place: i64 = row.try_get(0)?;
                Ok((usize::try_from(place - 1).unwrap_or(usize::MAX), row.try_get(1)?))
            };
            rows.iter().map(place_and_number).collect()
        })
    }
}

/// Returns the first four arguments of a statement that adds: the keys, amounts and ranges, as literals.
pub(super) fn arguments<K: Key<Postgres>>(
    keys: BoundKeys,
    additions: &[Addition<'_, K>],
) -> Result<String, BoxDynError> {
    let keys = keys.array(additions)?;
    let list = |number: fn(&Addition<'_, K>) -> i64| numbers(additions.iter().map(|one| Some(number(one))));
    let [deltas, least, most] =
        [list(|one| one.delta), list(|one| *one.to.start()), list(|one| *one.to.end())];
    Ok(format!("{keys}, '{deltas}', '{least}', '{most}'"))
}

/// Returns the statement that changes the rows whose numbers are within their range, and returns `returning`
/// for each.
pub(super) fn update(Target { table, key, column }: Target, keys: BoundKeys, returning: &str) -> String {
    let exactly = keys.exactly(key);
    format!(
        "UPDATE {table} AS target SET {column} = target.{column} + addition.delta \
         FROM ROWS FROM (unnest($1), unnest($2), unnest($3), unnest($4)) WITH ORDINALITY \
             AS addition (id, delta, least, most, place) \
         WHERE target.{key} = addition.id{exactly} \
         AND target.{column} BETWEEN addition.least AND addition.most \
         AND pg_typeof(target.{column}) IN {EXACT} AND CAST(target.{column} AS BIGINT) = target.{column} \
         RETURNING {returning}"
    )
}
