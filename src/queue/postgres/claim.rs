//! Claims in one round trip.

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, SqlSafeStr as _, SqlStr};

use crate::error::Error;
use crate::queue::dialect::{Dialect as _, JOB, Row};
use crate::queue::job::micros;
use crate::queue::priority::Priority;
use crate::queue::search::{Wanted, claimed, due};
use crate::strategy::Pessimistic;
use crate::transactor::PoolTransactor;

/// The statement as a session keeps it, with the version of its text.
const NAME: &str = concat!("\"atomically claim ", env!("CARGO_PKG_VERSION"), "\"");

/// What holds for the claim alone, because a text of several statements is one transaction.
///
/// A plan that was made when the table was empty reads it from one end to the other, and is kept while the table grows.
/// Without these two there is only the index, in its order.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; \
                        SET LOCAL enable_sort = off";

/// Behind a pooler each may meet another session, of which one knows the statement and the next one does not.
const ATTEMPTS: u32 = 5;

/// Finds the jobs and claims them in one statement, which the session keeps prepared.
///
/// # Why `PREPARE`, and not the driver's statements?
///
/// To plan the statement takes several times as long as to run it, so it has to be kept. The driver sends one of its own
/// statements in a round trip, and what is to be [set](SETTINGS) for it in others, with BEGIN and COMMIT around them. A text
/// can have all of that in it. A session that does not know the statement says so, and has done nothing. That also happens
/// behind a pooler that hands out sessions by the transaction, where the driver's own names, which are numbers, may stand for
/// another client's statement.
pub(super) async fn claim(
    db: &PoolTransactor<Postgres, Pessimistic>,
    wanted: Wanted,
) -> Result<Vec<Row>, Error> {
    let Wanted { queue, most, since: [high, normal, low], lease } = wanted;
    let lease = micros(lease);
    let places: Vec<_> = [high, normal, low].map(|place| format!("{}, {}", place.due_at, place.id)).into();
    let execute = format!("EXECUTE {NAME} ('{queue}', {most}, {lease}, {})", places.join(", "));
    let execute = AssertSqlSafe(execute).into_sql_str();
    db.run_on_connection(execute.clone(), |connection| run(connection, execute.clone())).await
}

fn run(connection: &mut PgConnection, execute: SqlStr) -> BoxFuture<'_, Result<Vec<Row>, sqlx::Error>> {
    Box::pin(async move {
        let mut known = true;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let prepare = if known { String::new() } else { prepare() };
            let text = format!("{SETTINGS}; {}{prepare}{}", Postgres::ALONE, execute.as_str());
            match sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *connection).await {
                Ok(rows) => return rows.iter().map(Postgres::job).collect(),
                Err(error) if attempts == ATTEMPTS => return Err(error),
                Err(error) if has_code(&error, "26000") => known = false,
                // Behind a pooler, it was another session that did not know it.
                Err(error) if has_code(&error, "42P05") => known = true,
                Err(error) => return Err(error),
            }
        }
    })
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}

/// The priorities are read one after the other, and no further than to the last job that is wanted: nothing else is
/// locked.
///
/// Not `UPDATE ... WHERE id IN (SELECT ... LIMIT ... FOR UPDATE SKIP LOCKED)`, which may be run again for each row: the
/// search is an expression of its own that is said to be materialized. The update goes to where the search has been, by
/// `ctid`; an index on the ids would be another thing to choose wrongly, as `(..., due_at, id)` has them too. A job that
/// changed between the snapshot and the lock is not where it was, and is left to the next claim.
fn prepare() -> String {
    let [high, normal, low] = Priority::ALL.map(Priority::number);
    let due = due::<Postgres>(
        &format!("ctid, {JOB}"),
        "$1",
        "range.number",
        &Postgres::behind("range.due_at", "range.id"),
        "$2",
    );
    let found: Vec<_> = JOB.split(", ").map(|column| format!("found.{column}")).collect();
    format!(
        "PREPARE {NAME} (text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint) AS \
         WITH found AS MATERIALIZED (\
             SELECT job.* FROM (VALUES ({high}::smallint, $4, $5), ({normal}, $6, $7), ({low}, $8, $9)) AS range (number, due_at, id), \
             LATERAL ({due}) AS job LIMIT $2\
         ) {} FROM found WHERE atomically_job.ctid = found.ctid RETURNING {}; ",
        claimed::<Postgres>("$3"),
        found.join(", ")
    )
}
