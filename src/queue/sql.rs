//! The statements of the queue.
//!
//! Each database has one [`QueueSql`], in a file of its own. The code that runs them is shared, except for
//! the few calls in [`DriverCalls`] that need the types of one driver. They name the tables without a prefix,
//! which is added where they are sent.

use std::any::Any;

use sqlx::Row as _;

use crate::backend::{Backend, SyntheticError, Value, WatchedQuery, required};
use crate::failure::{Failure, FailureKind};
use crate::schema::Schema;
use crate::sql_text::Syntax;
use crate::tx::Tx;

use super::finding::FindingKind;
use super::insertion::NewRows;
use super::position::IndexPosition;
use super::row::{Inserted, JobRow};

mod driver_calls;
mod mysql;
mod postgres;
mod sqlite;

pub(super) use driver_calls::DriverCalls;

/// Stored as the last error of a job whose last attempt began and did not end.
pub(super) const LEASE_EXPIRED: &str =
    "the lease of the last attempt expired: its worker died, or was too slow to extend it";

/// Smaller statements are sent without querying the server's limit, because no usable configuration has a
/// limit below this.
const MIN_CHECKED_BYTES: usize = 1_000_000;

/// Builds a statement from the ids of keys, with how many slots of each are freed.
type FreeSlots = fn(freed: &[(i64, u64)]) -> String;

/// A search for jobs that wait for a slot of a locked key.
pub(super) struct WaitingSearch<'l> {
    pub(super) key: i64,
    /// All jobs before this one have a slot, or are gone. The index may still have entries of them.
    pub(super) from_id: i64,
    pub(super) limit: i64,
    pub(super) lock: &'l str,
    /// Whether a search without locks finds everything that is committed.
    pub(super) is_read_committed: bool,
}

fn next_waiting(search: &WaitingSearch<'_>) -> String {
    let WaitingSearch { key, from_id, limit, lock, .. } = search;
    format!(
        "SELECT id FROM atomically_job WHERE waiting_key = {key} AND id >= {from_id} ORDER BY id \
         LIMIT {limit} {lock}"
    )
}

fn id_among(ids: &str) -> String {
    format!("id IN ({ids})")
}

/// The statements of one database, and the parts of the shared statements that differ between databases.
pub(super) struct QueueSql {
    /// The database's clock, in microseconds since 1970.
    ///
    /// Points in time are stored as numbers, which compare the same everywhere. The timestamp types of the
    /// databases differ in their ranges and in how they treat the session's time zone and daylight saving
    /// time.
    pub(super) now: &'static str,
    /// What the doctor checks.
    pub(super) checks: &'static [DoctorCheck],
    /// The index hint of a search for jobs.
    pub(super) index_hint: &'static str,
    /// Finds and locks the jobs that have waited longest for a slot of a key.
    pub(super) next_waiting: fn(&WaitingSearch<'_>) -> String,
    /// Locks the jobs that are about to be claimed, and skips those that other transactions have locked.
    pub(super) lock: &'static str,
    /// The condition that a job comes after a position in the index.
    after: fn(due_at: &str, id: &str) -> String,
    /// Precedes a statement that is sent without a transaction: sets its isolation level, and limits its
    /// time.
    pub(super) lone_prefix: &'static str,
    /// A condition that limits the waits for locks of a prepared statement without a transaction.
    pub(super) lone_limit: &'static str,
    /// Precedes a statement that completes several jobs without a transaction, and limits its waits for
    /// locks; `None` if a `DELETE` cannot return rows on every server.
    pub(super) completion_prefix: Option<&'static str>,
    /// The condition that a job's id is among those of a list.
    pub(super) id_among: fn(ids: &str) -> String,
    /// Selects the number of bytes at which the server closes the connection instead of running a statement.
    max_statement_bytes: Option<&'static str>,
    /// Ends an `INSERT INTO atomically_job_lease` that replaces an existing row.
    pub(super) replace_lease: &'static str,
    /// Ends an `INSERT INTO atomically_job_key` that locks an existing row and changes its limit.
    pub(super) replace_slots: &'static str,
    /// Ends an `INSERT INTO atomically_job_key` that locks an existing row.
    pub(super) keep_slots: &'static str,
    /// Frees this many slots of each key, gives the free slots to the jobs that have waited longest, and
    /// returns how many slots are taken. Where it is missing, each key takes several statements.
    pub(super) free_slots: Option<FreeSlots>,
    /// Deletes up to a thousand rows of a table, by its key.
    pub(super) delete_batch: fn(table: &str, key: &str, condition: &str) -> String,
}

/// A check of the doctor. Each row that the statement returns describes a problem.
pub(super) struct DoctorCheck {
    pub(super) kind: FindingKind,
    pub(super) sql: &'static str,
}

impl QueueSql {
    pub(super) fn of<DB: Backend>() -> &'static Self {
        match DB::SYNTAX {
            Syntax::MySql => &mysql::SQL,
            Syntax::Postgres => &postgres::SQL,
            Syntax::Sqlite => &sqlite::SQL,
        }
    }

    /// The condition that a job comes after `position` in the index.
    pub(super) fn after(&self, position: IndexPosition) -> String {
        (self.after)(&position.due_at.to_string(), &position.id.to_string())
    }

    /// The condition that the lease of a job was not extended beyond now. Jobs that are not claimed have no
    /// lease, and are not searched for one.
    ///
    /// This is a subquery and not a join, so that the rows are still read in the order of the index: only the
    /// rows that are returned may be locked.
    pub(super) fn no_lease(&self) -> String {
        format!(
            "(atomically_job.claimed_at IS NULL OR \
             COALESCE((SELECT lease.until FROM atomically_job_lease AS lease \
             WHERE lease.job_id = atomically_job.id AND lease.token = atomically_job.token), 0) <= {})",
            self.now
        )
    }

    /// Selects and locks the due jobs of one priority: one range of the index, in its order. All arguments
    /// are SQL.
    ///
    /// The jobs are then updated by their ids. `UPDATE … WHERE id IN (SELECT … LIMIT …)` does not guarantee
    /// that the jobs it locks are those it updates: the subquery may run once for each row.
    pub(super) fn select_due(
        &self,
        columns: &str,
        queue: &str,
        priority: &str,
        after: &str,
        limit: &str,
    ) -> String {
        let Self { now, index_hint, lock, .. } = self;
        format!(
            "SELECT {columns} FROM atomically_job {index_hint} \
             WHERE queue = {queue} AND priority = {priority} \
             AND {after} AND due_at <= {now} AND {} \
             AND NOT EXISTS (SELECT 1 FROM atomically_job_pause WHERE queue = {queue}) \
             ORDER BY due_at, id LIMIT {limit} {lock}",
            self.no_lease()
        )
    }

    /// The assignments that give a slot to a job that waits for one.
    ///
    /// The job is due now, and not when it was enqueued, because claims have passed that position of the
    /// index.
    pub(super) fn give_slot(&self) -> String {
        format!(
            "waiting_key = NULL, has_slot = 1, \
             due_at = CASE WHEN wanted_at > {now} THEN wanted_at ELSE {now} END, wanted_at = NULL",
            now = self.now
        )
    }

    /// The start of the UPDATE that claims jobs for `lease` microseconds, or marks them dead if they are
    /// spent and have no key. Keys that are unique until the claim are removed.
    ///
    /// A spent job with a key is claimed like others, so that its key can be locked before it is marked dead.
    ///
    /// `attempts` is assigned last, because MySQL and MariaDB evaluate each assignment after those before it.
    pub(super) fn claim(&self, lease: &str) -> String {
        let (now, is_spent) = (self.now, "atomically_job.attempts >= atomically_job.max_attempts");
        let dies = format!("{is_spent} AND atomically_job.key_id IS NULL");
        format!(
            "UPDATE atomically_job SET token = atomically_job.token + 1, \
             claimed_at = CASE WHEN {dies} THEN NULL ELSE {now} END, \
             due_at = CASE WHEN {dies} THEN NULL ELSE {now} + {lease} END, \
             died_at = CASE WHEN {dies} THEN {now} END, \
             unique_key = CASE WHEN atomically_job.unique_until_claimed THEN NULL \
                 ELSE atomically_job.unique_key END, \
             last_error = CASE WHEN {dies} THEN '{LEASE_EXPIRED}' ELSE atomically_job.last_error END, \
             attempts = CASE WHEN {is_spent} THEN atomically_job.attempts \
                 ELSE atomically_job.attempts + 1 END"
        )
    }

    /// Refuses a statement of about this many bytes if the server would close the connection on it, which
    /// would look like a lost connection.
    pub(super) async fn check_size<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        bytes: usize,
    ) -> Result<(), sqlx::Error> {
        let Some(sql) = self.max_statement_bytes.filter(|_| bytes >= MIN_CHECKED_BYTES) else {
            return Ok(());
        };
        // The statement uses none of the queue's tables.
        let limit = fetch_integers(tx, Schema::new(), sql).await?.first().copied().unwrap_or(i64::MAX);
        if i64::try_from(bytes).is_ok_and(|bytes| bytes < limit) {
            return Ok(());
        }
        let message = format!(
            "a job of about {bytes} bytes does not fit into the server's max_allowed_packet of {limit}: \
             store large payloads elsewhere and enqueue a reference, or raise max_allowed_packet"
        );
        Err(SyntheticError::Failed(Failure::new(FailureKind::InvalidInput, message)).into())
    }
}

/// Inserts rows, except for those that violate a unique key.
pub(super) async fn insert<DB: Backend>(tx: &mut Tx<DB>, rows: NewRows<'_>) -> Result<Inserted, sqlx::Error> {
    let (values, arguments) = rows.values::<DB>(QueueSql::of::<DB>().now);
    insert_values(tx, rows.schema, values, arguments).await
}

/// Inserts rows whose values are built.
async fn insert_values<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    values: String,
    arguments: Vec<Option<String>>,
) -> Result<Inserted, sqlx::Error> {
    let insert = format!("INSERT INTO {values} ON CONFLICT DO NOTHING RETURNING id");
    let ids = integers::<DB>(tx.fetch_rows(query(tx, schema, insert, arguments)?).await?)?;
    Ok(Inserted { rows: ids.len() as u64, id: ids.first().copied() })
}

impl<DB: Backend> DriverCalls<DB> {
    /// Returns the calls of this database, if it has any.
    pub(super) fn get() -> Option<&'static Self> {
        let calls: &[&'static (dyn Any + Sync)] = &[
            #[cfg(feature = "postgres")]
            &postgres::CALLS,
            #[cfg(feature = "mysql")]
            &mysql::CALLS,
        ];
        calls.iter().find_map(|calls| (*calls as &dyn Any).downcast_ref())
    }
}

/// A list of ids for `IN (…)`.
pub(super) fn id_list(ids: impl IntoIterator<Item = i64>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// Creates a query. The text of the queue's statements varies, so they are not worth preparing.
fn query<DB: Backend>(
    tx: &Tx<DB>,
    schema: Schema,
    sql: impl Into<String>,
    texts: Vec<Option<String>>,
) -> Result<WatchedQuery<DB>, sqlx::Error> {
    let sql = tx.engine().in_sql(schema.in_sql(sql.into()));
    WatchedQuery::with_values(sql, texts.into_iter().map(Value::Text))
}

/// Runs a statement with these texts as arguments, and returns the number of rows that it affected.
pub(super) async fn execute_with<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
    texts: Vec<Option<String>>,
) -> Result<u64, sqlx::Error> {
    tx.execute_query(query(tx, schema, sql, texts)?).await
}

/// Runs a statement, and returns the number of rows that it affected.
pub(super) async fn execute<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
) -> Result<u64, sqlx::Error> {
    execute_with(tx, schema, sql, Vec::new()).await
}

/// Returns all columns of all rows, one row after the other.
pub(super) async fn fetch_integers<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
) -> Result<Vec<i64>, sqlx::Error> {
    integers::<DB>(tx.fetch_rows(query(tx, schema, sql, Vec::new())?).await?)
}

/// Decodes all columns of all rows.
pub(super) fn integers<DB: Backend>(rows: Vec<DB::Row>) -> Result<Vec<i64>, sqlx::Error> {
    let mut integers = Vec::new();
    for row in rows {
        for column in 0..row.len() {
            integers.push(required(DB::integer(&row, column)?, column)?);
        }
    }
    Ok(integers)
}

/// Returns the first column of each row.
pub(super) async fn fetch_texts<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
) -> Result<Vec<String>, sqlx::Error> {
    let rows = tx.fetch_rows(query(tx, schema, sql, Vec::new())?).await?;
    rows.iter().map(|row| required(DB::text(row, 0)?, 0)).collect()
}

/// Returns the rows of a query.
pub(super) async fn fetch_rows<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let query = query(tx, schema, sql, Vec::new())?;
    tx.fetch_rows(query).await
}

/// Returns the jobs of a statement that selects the columns of [`JobRow`].
pub(super) async fn fetch_jobs<DB: Backend>(
    tx: &mut Tx<DB>,
    schema: Schema,
    sql: impl Into<String> + Send,
) -> Result<Vec<JobRow>, sqlx::Error> {
    tx.fetch_rows(query(tx, schema, sql, Vec::new())?).await?.iter().map(JobRow::decode::<DB>).collect()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _};

    use super::*;
    use crate::queue::row::JOB;

    #[tokio::test]
    async fn sqlite_reads_the_index_in_its_order() {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect("sqlite::memory:").await.expect("a database");
        let sql = &sqlite::SQL;
        sqlx::raw_sql(AssertSqlSafe(Schema::new().sql::<sqlx::Sqlite>()))
            .execute(&pool)
            .await
            .expect("the tables");
        let after = sql.after(IndexPosition { due_at: 5, id: 7 });
        let explain = format!("EXPLAIN QUERY PLAN {}", sql.select_due(JOB, "'jobs'", "1", &after, "10"));
        let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&pool).await.expect("a plan");
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let search = "USING INDEX atomically_job_claim (queue=? AND priority=? AND due_at>? AND due_at<?)";
        assert!(steps[0].contains(search), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("ORDER BY") || step.starts_with("SCAN")), "{steps:?}");
    }
}
