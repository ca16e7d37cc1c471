//! Holds that are checked, taken and stored in one round trip.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, SqlSafeStr as _, SqlStr};

use super::bound_keys::BoundKeys;
use super::literals::{literal, numbers, texts};
use super::prepared::PreparedStatement;
use super::single_statement::{IS_IN_OPEN_TRANSACTION, MAY_CHANGE_SUM, SETTINGS, arguments, update};
use crate::backend::additions::{Addition, HoldGroup, HoldInOneStatement, HoldRecords, Target};
use crate::backend::codec::Key;
use crate::digest::digest;
use crate::strategy::Limits;

const NOW: &str = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint";

/// Changes the rows whose numbers are within the requested range, and stores the holds of these rows.
struct HoldStatement {
    prepared: Arc<PreparedStatement>,
    sql: SqlStr,
    keys: BoundKeys,
}

/// Returns the statement; `None` if values of the key's type cannot be written into a text.
pub(super) fn statement<K: Key<Postgres>>(
    target: Target,
    records: HoldRecords<'_>,
) -> Option<Box<dyn HoldInOneStatement<Postgres, K>>> {
    let keys = BoundKeys::of::<K>()?;
    let update = update(target, keys, "addition.place, target.tableoid AS relation");
    let name = literal(records.name);
    // A batch often holds the same of each row for each caller, so the values of a group are sent once. The
    // condition is a CASE so that the places are looked up in a hash table: a join would compare each group
    // with each row, because the settings allow no hash join. The time is a subquery so that it is computed
    // once, and not for each hold.
    let insert = records.schema.everywhere_in("INSERT INTO atomically_hold")
        + &format!(
            " (id, part, token, target, row_key, amount, expires_at) \
             SELECT first_id + number - first, 0, ($5)[number], {name}, row_key, amount, \
                 (SELECT {NOW}) + ttl \
             FROM ROWS FROM (unnest($6), unnest($7), unnest($8), unnest($9), unnest($10), unnest($11), \
                 unnest($12)) AS hold (place, first_id, first, last, row_key, amount, ttl), \
                 generate_series(first, last) AS number \
             WHERE CASE WHEN place IN (SELECT place FROM changed) THEN TRUE END"
        );
    // The division by zero makes the statement fail if several rows have the same key, if it is not a
    // transaction of its own, or if the table can store another number than the difference.
    let sql = format!(
        "WITH changed AS ({update}), held AS ({insert}) SELECT place, {NOW}, \
         1 / CASE WHEN count(*) OVER (PARTITION BY place) <> 1 \
         OR {IS_IN_OPEN_TRANSACTION} OR {MAY_CHANGE_SUM} THEN 0 ELSE 1 END FROM changed"
    );
    let name = format!("hold {}", digest(&sql));
    let parameters = format!(
        "{}[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[], text[], \
         bigint[], bigint[]",
        keys.name()
    );
    let prepared = Arc::new(PreparedStatement::new(&name, &parameters, sql.clone()));
    Some(Box::new(HoldStatement { prepared, sql: AssertSqlSafe(sql).into_sql_str(), keys }))
}

impl HoldStatement {
    fn arguments<K: Key<Postgres>>(
        &self,
        additions: &[Addition<'_, K>],
        holds: &[HoldGroup<'_>],
    ) -> Result<String, BoxDynError> {
        let additions = arguments(self.keys, additions)?;
        let tokens = numbers(holds.iter().flat_map(|group| group.tokens).map(Some));
        let list = |number: fn(&HoldGroup<'_>) -> i64| numbers(holds.iter().map(|one| Some(number(one))));
        let row_keys = texts(holds.iter().map(|group| Some(group.row_key)));
        // Places and positions count from 1.
        let places = numbers(holds.iter().map(|group| Some(group.addition + 1)));
        let ends: Vec<usize> = holds
            .iter()
            .scan(0, |end, group| {
                *end += group.tokens.len();
                Some(*end)
            })
            .collect();
        let begins = ends.iter().zip(holds).map(|(end, group)| Some(end + 1 - group.tokens.len()));
        let (begins, ends) = (numbers(begins), numbers(ends.iter().map(Some)));
        let [ids, amounts, ttls] =
            [list(|group| group.first_id), list(|group| group.amount), list(|group| group.ttl)];
        Ok(format!(
            "{additions}, '{tokens}', '{places}', '{ids}', '{begins}', '{ends}', {row_keys}, '{amounts}', \
             '{ttls}'"
        ))
    }
}

impl<K: Key<Postgres>> HoldInOneStatement<Postgres, K> for HoldStatement {
    fn sql(&self) -> SqlStr {
        self.sql.clone()
    }

    fn hold<'c>(
        &self,
        connection: &'c mut PgConnection,
        additions: &[Addition<'_, K>],
        holds: &[HoldGroup<'_>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>> {
        let arguments = self.arguments(additions, holds);
        let (prepared, limits) = (self.prepared.clone(), *limits);
        Box::pin(async move {
            let arguments = arguments.map_err(sqlx::Error::Encode)?;
            let rows = prepared.fetch(connection, SETTINGS, limits, &arguments).await?;
            let place_and_time = |row: &PgRow| {
                let place: i64 = row.try_get(0)?;
                Ok((usize::try_from(place - 1).unwrap_or(usize::MAX), row.try_get(1)?))
            };
            rows.iter().map(place_and_time).collect()
        })
    }
}
