//! Inserts in one round trip.
//!
//! # Why is everything bound?
//!
//! A payload or a unique key in the text would be shown by the log of sqlx and by `pg_stat_activity`. And a
//! text that is always the same can be kept prepared, which makes it one round trip.

use std::sync::{Arc, LazyLock};

use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, Executor as _, Postgres, Row as _, SqlSafeStr as _,
    SqlStr,
};

use crate::backend::{WatchedQuery, whole_millis};
use crate::error::Error;
use crate::queue::insertion::{COLUMNS, NewRows};
use crate::queue::job::{Due, NewJob};
use crate::queue::sql::{Dialect as _, Inserted};
use crate::strategies::Pessimistic;
use crate::transactor::PoolTransactor;

/// The columns of one job.
const JOB: &str = "$1, $2, COALESCE($3, {now} + $4), $5, {now}, $6, $7, $8";

/// Inserts one job and answers its id.
static ONE: LazyLock<SqlStr> = LazyLock::new(|| insert(&format!("VALUES ({JOB})"), "RETURNING id"));

/// The same as a transaction of its own, whose waits for locks have a limit: it is set in front of the first
/// of them.
static ONE_ALONE: LazyLock<SqlStr> = LazyLock::new(|| {
    insert(&format!("SELECT {JOB} WHERE set_config('lock_timeout', $9, true) IS NOT NULL"), "RETURNING id")
});

/// Inserts several jobs, as arrays: of a list of rows, each value would be an expression to the parser.
static MANY: LazyLock<SqlStr> = LazyLock::new(|| {
    let jobs = "SELECT $1, priority, COALESCE(at, (SELECT {now}) + delay), attempts, (SELECT {now}), key, until_claimed, \
                payload \
                FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[], $7::boolean[], $8::text[]) \
                AS job (priority, at, delay, attempts, key, until_claimed, payload)";
    insert(jobs, "")
});

fn insert(rows: &str, end: &str) -> SqlStr {
    let rows = rows.replace("{now}", Postgres::NOW);
    let text: Arc<str> = format!("INSERT INTO {COLUMNS} {rows} ON CONFLICT DO NOTHING {end}").into();
    AssertSqlSafe(text).into_sql_str()
}

/// The statement that inserts one job and answers its id, or inserts several.
pub(super) fn query(rows: &NewRows<'_>) -> Result<WatchedQuery<Postgres>, BoxDynError> {
    let (sql, arguments) = match rows.jobs {
        [job] => (&*ONE, one(rows, job)?),
        _ => (&*MANY, many(rows)?),
    };
    Ok(WatchedQuery::with_arguments(sql.clone(), arguments))
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

/// When a job is due: at a time, or after a delay.
fn time(due: Due) -> (Option<i64>, Option<i64>) {
    match due {
        Due::At(time) => (Some(time), None),
        Due::After(delay) => (None, Some(delay)),
    }
}

fn attempts(rows: &NewRows<'_>, job: &NewJob) -> i32 {
    i32::try_from(rows.attempts(job)).unwrap_or(i32::MAX)
}

/// Inserts a job as its own transaction, without BEGIN and COMMIT around it. Inserts nothing, and answers
/// `None`, on a connection that is not to keep the statement: behind a pooler that hands out sessions by the
/// transaction, what is prepared on one of them would be run on another one, unless a transaction is around
/// both.
pub(super) async fn alone(
    db: &PoolTransactor<Postgres, Pessimistic>,
    arguments: Result<PgArguments, BoxDynError>,
    persistent: Option<bool>,
) -> Result<Option<Inserted>, Error> {
    let arguments = arguments.map_err(sqlx::Error::Encode)?;
    db.run_on_connection(ONE_ALONE.clone(), |connection, limit| {
        let mut arguments = arguments.clone();
        let limited = arguments.add(whole_millis(limit).to_string());
        Box::pin(async move {
            limited.map_err(sqlx::Error::Encode)?;
            if !persistent.unwrap_or_else(|| connection.cached_statements_size() > 0) {
                return Ok(None);
            }
            let query =
                WatchedQuery::<Postgres>::with_arguments(ONE_ALONE.clone(), arguments).persistent_if(true);
            let row = connection.fetch_optional(query).await?;
            Ok(Some(Inserted::one(row.map(|row| row.try_get(0)).transpose()?)))
        })
    })
    .await
}

/// What [`alone`] binds; `None` where it would insert nothing on any connection.
pub(super) fn alone_arguments(rows: &NewRows<'_>) -> Option<Result<PgArguments, BoxDynError>> {
    match rows.jobs {
        [job] if rows.persistent != Some(false) => Some(one(rows, job)),
        _ => None,
    }
}
