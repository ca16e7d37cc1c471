//! Claims in one round trip.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr as _};

use crate::backend::PreparedStatement;
use crate::error::Error;
use crate::queue::job::micros;
use crate::queue::priority::Priority;
use crate::queue::search::{Wanted, claimed, due};
use crate::queue::sql::{Dialect as _, JOB, JobRow};
use crate::strategies::Pessimistic;
use crate::strategy::Limits;
use crate::transactor::PoolTransactor;

/// What holds for the claim alone, because a text of several statements is one transaction.
///
/// A plan that was made when the table was empty reads it from one end to the other, and is kept while the
/// table grows. Without these two there is only the index, in its order.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; \
                        SET LOCAL enable_sort = off";

/// The statement, as sessions keep it.
static CLAIM: LazyLock<PreparedStatement> = LazyLock::new(statement);

/// Finds the jobs and claims them in one statement.
pub(super) async fn claim(
    db: &PoolTransactor<Postgres, Pessimistic>,
    wanted: Wanted,
) -> Result<Vec<JobRow>, Error> {
    let Wanted { queue, most, since: [high, normal, low], lease } = wanted;
    let lease = micros(lease);
    let places: Vec<_> = [high, normal, low].map(|place| format!("{}, {}", place.due_at, place.id)).into();
    let arguments = format!("'{queue}', {most}, {lease}, {}", places.join(", "));
    let said = AssertSqlSafe(CLAIM.execute(&arguments)).into_sql_str();
    db.run_on_connection(said, |connection, limit| {
        let arguments = arguments.clone();
        Box::pin(async move {
            let limits = Limits { left: Some(limit), ..Limits::default() };
            let rows = CLAIM.fetch(connection, SETTINGS, limits, &arguments).await?;
            rows.iter().map(Postgres::job).collect()
        })
    })
    .await
}

/// The priorities are read one after the other, and no further than to the last job that is wanted: nothing
/// else is locked.
///
/// Not `UPDATE ... WHERE id IN (SELECT ... LIMIT ... FOR UPDATE SKIP LOCKED)`, which may be run again for
/// each row: the search is an expression of its own that is said to be materialized. The update goes to where
/// the search has been, by `ctid`; an index on the ids would be another thing to choose wrongly, as `(...,
/// due_at, id)` has them too. A job that changed between the snapshot and the lock is not where it was, and
/// is left to the next claim.
fn statement() -> PreparedStatement {
    let [high, normal, low] = Priority::ALL.map(Priority::number);
    let due = due::<Postgres>(
        &format!("ctid, {JOB}"),
        "$1",
        "range.number",
        &Postgres::behind("range.due_at", "range.id"),
        "$2",
    );
    let found: Vec<_> = JOB.split(", ").map(|column| format!("found.{column}")).collect();
    let claim = format!(
        "WITH found AS MATERIALIZED (\
             SELECT job.* FROM (VALUES ({high}::smallint, $4, $5), ({normal}, $6, $7), ({low}, $8, $9)) AS range (number, due_at, id), \
             LATERAL ({due}) AS job LIMIT $2\
         ) {} FROM found WHERE atomically_job.ctid = found.ctid RETURNING {}",
        claimed::<Postgres>("$3"),
        found.join(", ")
    );
    PreparedStatement::new(
        "claim",
        "text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint",
        claim,
    )
}
