//! Claims jobs in one round trip.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr as _};

use super::SQL;
use crate::backend::PreparedStatement;
use crate::error::Error;
use crate::queue::job::micros;
use crate::queue::priority::Priority;
use crate::queue::row::{JOB, JobRow, JobsWanted};
use crate::queue::sql::driver_calls::QueueTransactor;
use crate::schema::Schema;
use crate::strategy::Limits;

/// The settings of the claim's own transaction: a text of several statements is one transaction.
///
/// A plan that was made while the table was empty is a sequential scan, and is kept while the table grows.
/// With these settings the only plan left reads the index in its order.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL enable_seqscan = off; \
                        SET LOCAL enable_sort = off";

/// The statement for each prefix of the tables, which sessions keep prepared.
static CLAIMS: Mutex<BTreeMap<&'static str, Arc<PreparedStatement>>> = Mutex::new(BTreeMap::new());

fn prepared(schema: Schema) -> Arc<PreparedStatement> {
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    claims.entry(schema.prefix()).or_insert_with(|| Arc::new(statement(schema))).clone()
}

/// Finds and claims jobs in one statement.
pub(super) fn claim(
    db: &QueueTransactor<Postgres>,
    wanted: JobsWanted,
) -> BoxFuture<'_, Result<Vec<JobRow>, Error>> {
    Box::pin(async move {
        let JobsWanted { queue, limit, start, lease } = wanted;
        let start = start.map(|position| format!("{}, {}", position.due_at, position.id)).join(", ");
        let arguments = format!("'{queue}', {limit}, {}, {start}", micros(lease));
        let claim = prepared(db.schema());
        let text = AssertSqlSafe(claim.execute(&arguments)).into_sql_str();
        db.run_on_connection(text, |connection, time| {
            let (claim, arguments) = (claim.clone(), arguments.clone());
            Box::pin(async move {
                let limits = Limits { left: Some(time), ..Limits::default() };
                let rows = claim.fetch(connection, SETTINGS, limits, &arguments).await?;
                rows.iter().map(JobRow::decode::<Postgres>).collect()
            })
        })
        .await
    })
}

/// Returns the statement that finds and claims jobs. It reads the priorities one after the other and stops at
/// the last job that is wanted, so that no other job is locked.
///
/// The search is a materialized common table expression, because PostgreSQL may run the subquery of `UPDATE …
/// WHERE id IN (SELECT … LIMIT … FOR UPDATE SKIP LOCKED)` once for each row. The update finds the rows by
/// their `ctid`; with ids the planner could choose the wrong index, since `(…, due_at, id)` has them too. A
/// job that changed between the snapshot and the lock has another `ctid`, and is left to the next claim.
fn statement(schema: Schema) -> PreparedStatement {
    let [high, normal, low] = Priority::ALL.map(Priority::number);
    let after = (SQL.after)("range.due_at", "range.id");
    let due = SQL.select_due(&format!("ctid, {JOB}"), "$1", "range.number", &after, "$2");
    let found: Vec<_> = JOB.split(", ").map(|column| format!("found.{column}")).collect();
    let claim = format!(
        "WITH found AS MATERIALIZED (\
             SELECT job.* FROM (VALUES ({high}::smallint, $4, $5), ({normal}, $6, $7), ({low}, $8, $9)) \
                 AS range (number, due_at, id), \
             LATERAL ({due}) AS job LIMIT $2\
         ) {} FROM found WHERE atomically_job.ctid = found.ctid RETURNING {}",
        SQL.claim("$3"),
        found.join(", ")
    );
    PreparedStatement::new(
        &format!("{}claim", schema.prefix()),
        "text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint",
        schema.in_sql(claim),
    )
}
