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
/// Planning takes longer than executing, but the server would plan each claim anew, because it estimates that
/// to be cheaper, and compile the plan for a long queue, because it cannot know how few jobs are wanted. The
/// settings therefore force a generic plan that is not compiled. A plan that was made while the table was
/// empty is a sequential scan, and is kept while the table grows, so the only plan left reads the index in
/// its order.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                        SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off; \
                        SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";

/// The columns of a job that the search returns, because the update changes them.
const BEFORE: &str = "due_at, attempts";

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
        // The server converts a number in quotes while it reads the text, and others by calls of functions.
        let start = start.map(|position| format!("'{}', '{}'", position.due_at, position.id)).join(", ");
        let arguments = format!("'{queue}', '{limit}', '{}', {start}", micros(lease));
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
///
/// The search returns few columns, because each of its steps copies them. The others are those of the updated
/// row.
fn statement(schema: Schema) -> PreparedStatement {
    let [high, normal, low] = Priority::ALL.map(Priority::number);
    let after = (SQL.after)("range.due_at", "range.id");
    let due = SQL.select_due(&format!("ctid, {BEFORE}"), "$1", "range.number", &after, "$2");
    let before: Vec<_> = BEFORE.split(", ").collect();
    let returned = JOB.split(", ").map(|column| match column {
        "token" => "atomically_job.token - 1".to_owned(),
        column if before.contains(&column) => format!("found.{column}"),
        column => format!("atomically_job.{column}"),
    });
    let returned: Vec<_> = returned.collect();
    let claim = format!(
        "WITH found AS MATERIALIZED (\
             SELECT job.* FROM (VALUES ({high}::smallint, $4, $5), ({normal}, $6, $7), ({low}, $8, $9)) \
                 AS range (number, due_at, id), \
             LATERAL ({due}) AS job LIMIT $2\
         ) {} FROM found WHERE atomically_job.ctid = found.ctid RETURNING {}",
        SQL.claim("$3"),
        returned.join(", ")
    );
    // The server would compute its clock several times for each job, but a subquery only once.
    let claim = claim.replace(SQL.now, &format!("(SELECT {})", SQL.now));
    PreparedStatement::new(
        &format!("{}claim", schema.prefix()),
        "text, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint",
        schema.in_sql(claim),
    )
}
