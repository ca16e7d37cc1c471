//! Inserts in one round trip.

use sqlx::{AssertSqlSafe, Postgres, Row as _, SqlSafeStr as _};

use crate::backend::{literal, numbers, texts};
use crate::error::Error;
use crate::queue::dialect::Dialect as _;
use crate::queue::insertion::{COLUMNS, NewRows};
use crate::queue::job::Due;
use crate::strategy::Pessimistic;
use crate::transactor::PoolTransactor;

/// The statement that inserts one job and answers its id; or several, as arrays: of a list of rows, each value would be an
/// expression to the parser.
///
/// # Why literals?
///
/// A statement with arguments that the session does not keep takes the driver two round trips. One that it does keep has
/// another client's number behind a pooler.
pub(super) fn text(rows: &NewRows<'_>) -> String {
    let (queue, now) = (rows.queue, Postgres::NOW);
    let end = "ON CONFLICT DO NOTHING";
    if let [job] = rows.jobs {
        let key = job.unique_key.as_deref().map_or_else(|| "NULL".to_owned(), literal);
        let (priority, due, attempts) =
            (job.priority.number(), job.due.text::<Postgres>(), rows.attempts(job));
        let until_claimed = job.unique_until_claimed;
        return format!(
            "INSERT INTO {COLUMNS} VALUES ('{queue}', {priority}, {due}, {attempts}, {now}, {key}, {until_claimed}, {}) \
             {end} RETURNING id",
            literal(&job.payload)
        );
    }
    let jobs = || rows.jobs.iter().copied();
    let delays = numbers(jobs().map(|job| match job.due {
        Due::After(delay) => Some(delay),
        Due::At(_) => None,
    }));
    let times = numbers(jobs().map(|job| match job.due {
        Due::At(time) => Some(time),
        Due::After(_) => None,
    }));
    let priorities = numbers(jobs().map(|job| Some(job.priority.number())));
    let attempts = numbers(jobs().map(|job| Some(rows.attempts(job))));
    let keys = texts(jobs().map(|job| job.unique_key.as_deref()));
    let until_claimed = numbers(jobs().map(|job| Some(job.unique_until_claimed)));
    let payloads = texts(jobs().map(|job| Some(job.payload.as_str())));
    format!(
        "INSERT INTO {COLUMNS} \
         SELECT '{queue}', priority, COALESCE(at, (SELECT {now}) + delay), attempts, (SELECT {now}), key, \
         until_claimed, payload \
         FROM unnest('{priorities}'::smallint[], '{delays}'::bigint[], '{times}'::bigint[], '{attempts}'::integer[], \
         {keys}::text[], '{until_claimed}'::boolean[], {payloads}::text[]) \
         AS job (priority, delay, at, attempts, key, until_claimed, payload) {end}"
    )
}

/// Sends a text as its own transaction, and answers the id that comes back.
pub(super) async fn alone(
    db: &PoolTransactor<Postgres, Pessimistic>,
    text: String,
) -> Result<Option<i64>, Error> {
    let sql = AssertSqlSafe(format!("{}{text}", Postgres::ALONE)).into_sql_str();
    db.run_on_connection(sql.clone(), |connection, _| {
        let query = sqlx::raw_sql(sql.clone());
        Box::pin(async move {
            let rows = query.fetch_all(connection).await?;
            rows.first().map(|row| row.try_get(0)).transpose()
        })
    })
    .await
}
