//! Inserts jobs in one round trip.
//!
//! # Why are all values bound?
//!
//! A payload or a unique key in the text would appear in sqlx's log and in `pg_stat_activity`. And a text
//! that does not vary can be kept prepared, which makes the insert one round trip.

use std::sync::{Arc, LazyLock};

use futures_core::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, Executor as _, Postgres, Row as _, SqlSafeStr as _,
    SqlStr,
};

use super::SQL;
use crate::backend::{WatchedQuery, whole_millis};
use crate::error::Error;
use crate::queue::insertion::{COLUMNS, NewRows};
use crate::queue::job::{Due, NewJob};
use crate::queue::row::Inserted;
use crate::queue::sql::driver_calls::QueueTransactor;
use crate::queue::sql::insert_values;
use crate::schema::Schema;
use crate::tx::Tx;

/// The values of one job.
const VALUES: &str = "$1, $2, COALESCE($3, {now} + $4), $5, {now}, $6, $7, $8";

/// Inserts one job and returns its id.
static ONE: LazyLock<SqlStr> = LazyLock::new(|| statement(&format!("VALUES ({VALUES})"), "RETURNING id"));

/// Inserts one job as a transaction of its own, with a limit on its waits for locks, and returns its id. The
/// limit is set before the first lock is requested.
static ONE_ALONE: LazyLock<SqlStr> = LazyLock::new(|| {
    let values = format!("SELECT {VALUES} WHERE set_config('lock_timeout', $9, true) IS NOT NULL");
    statement(&values, "RETURNING id")
});

/// Inserts several jobs, as arrays: in a list of rows the server would parse each value as an expression.
static MANY: LazyLock<SqlStr> = LazyLock::new(|| {
    let jobs = "SELECT $1, priority, COALESCE(at, (SELECT {now}) + delay), attempts, (SELECT {now}), key, \
                until_claimed, payload \
                FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[], \
                $7::boolean[], $8::text[]) \
                AS job (priority, at, delay, attempts, key, until_claimed, payload)";
    statement(jobs, "")
});

/// Returns a statement with the names of the tables.
fn named(schema: Schema, statement: &SqlStr) -> SqlStr {
    match schema.prefix() {
        "" => statement.clone(),
        _ => AssertSqlSafe(schema.in_sql(statement.as_str().to_owned())).into_sql_str(),
    }
}

fn statement(rows: &str, end: &str) -> SqlStr {
    let rows = rows.replace("{now}", SQL.now);
    let text: Arc<str> = format!("INSERT INTO {COLUMNS} {rows} ON CONFLICT DO NOTHING {end}").into();
    AssertSqlSafe(text).into_sql_str()
}

/// Inserts jobs into an open transaction. Reports the id if it is one job.
pub(super) fn insert<'t>(
    tx: &'t mut Tx<Postgres>,
    rows: NewRows<'_>,
) -> BoxFuture<'t, Result<Inserted, sqlx::Error>> {
    if rows.have_keys() {
        let (values, arguments) = rows.values::<Postgres>(SQL.now);
        return Box::pin(insert_values(tx, rows.schema, values, arguments));
    }
    let (is_one, persistent) = (rows.jobs.len() == 1, rows.persistent);
    let (sql, arguments) = match rows.jobs {
        [job] => (named(rows.schema, &ONE), one(&rows, job)),
        _ => (named(rows.schema, &MANY), many(&rows)),
    };
    Box::pin(async move {
        let query = WatchedQuery::with_arguments(sql, arguments.map_err(sqlx::Error::Encode)?);
        let query = query.persistent_if(persistent.unwrap_or_else(|| tx.keeps_statements()));
        if is_one {
            let row = tx.fetch_optional(query).await?;
            return Ok(Inserted::one(row.map(|row| row.try_get(0)).transpose()?));
        }
        Ok(Inserted { rows: tx.execute(query).await?.rows_affected(), id: None })
    })
}

/// Inserts one job as a transaction of its own, without BEGIN and COMMIT around it.
///
/// Inserts nothing, and returns `None`, on a connection that must not keep the statement prepared. Behind a
/// pooler in transaction mode, a statement that was prepared on one session would be run on another, unless
/// both steps are in one transaction.
pub(super) fn insert_alone<'d>(
    db: &'d QueueTransactor<Postgres>,
    rows: NewRows<'_>,
) -> Option<BoxFuture<'d, Result<Option<Inserted>, Error>>> {
    let (persistent, sql) = (rows.persistent, named(rows.schema, &ONE_ALONE));
    let arguments = match rows.jobs {
        [job] if persistent != Some(false) && job.key.is_none() => one(&rows, job),
        _ => return None,
    };
    Some(Box::pin(async move {
        let arguments = arguments.map_err(sqlx::Error::Encode)?;
        db.run_on_connection(sql.clone(), |connection, limit| {
            let sql = sql.clone();
            let mut arguments = arguments.clone();
            let limited = arguments.add(whole_millis(limit).to_string());
            Box::pin(async move {
                limited.map_err(sqlx::Error::Encode)?;
                if !persistent.unwrap_or_else(|| connection.cached_statements_size() > 0) {
                    return Ok(None);
                }
                let query = WatchedQuery::<Postgres>::with_arguments(sql, arguments).persistent_if(true);
                let row = connection.fetch_optional(query).await?;
                Ok(Some(Inserted::one(row.map(|row| row.try_get(0)).transpose()?)))
            })
        })
        .await
    }))
}

fn one(rows: &NewRows<'_>, job: &NewJob) -> Result<PgArguments, BoxDynError> {
    let (at, delay) = time(job.due);
    let mut arguments = PgArguments::default();
    arguments.add(rows.queue)?;
    arguments.add(job.priority.number())?;
    arguments.add(at)?;
    arguments.add(delay)?;
    arguments.add(attempts(rows, job))?;
    arguments.add(job.unique_key.as_deref())?;
    arguments.add(job.unique_until_claimed)?;
    arguments.add(job.payload.as_str())?;
    Ok(arguments)
}

fn many(rows: &NewRows<'_>) -> Result<PgArguments, BoxDynError> {
    let jobs = || rows.jobs.iter().copied();
    let mut arguments = PgArguments::default();
    arguments.add(rows.queue)?;
    arguments.add(jobs().map(|job| job.priority.number()).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| time(job.due).0).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| time(job.due).1).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| attempts(rows, job)).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| job.unique_key.as_deref()).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| job.unique_until_claimed).collect::<Vec<_>>())?;
    arguments.add(jobs().map(|job| job.payload.as_str()).collect::<Vec<_>>())?;
    Ok(arguments)
}

/// The time at which a job is due, or the delay after which it is, in microseconds.
fn time(due: Due) -> (Option<i64>, Option<i64>) {
    match due {
        Due::At(time) => (Some(time), None),
        Due::After(delay) => (None, Some(delay)),
    }
}

fn attempts(rows: &NewRows<'_>, job: &NewJob) -> i32 {
    i32::try_from(rows.attempts(job)).unwrap_or(i32::MAX)
}
