//! The table of operations, by which an unknown commit can be resolved.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy, Verdict};

use super::PoolTransactor;

/// # The table of operations
///
/// Methods for the table that [`Options::resolve_commits`](crate::Options::resolve_commits) needs.
impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Returns the statement that creates the table of operations if it does not exist, for your own
    /// migrations.
    #[must_use]
    pub fn operation_schema() -> &'static str {
        DB::CREATE_OPERATIONS
    }

    /// Creates the table of operations if it does not exist.
    ///
    /// Checks the catalog first and locks nothing if the table exists, so it can be called at each start.
    ///
    /// # Errors
    ///
    /// Returns the failure of the database. It is [`LockTimeout`](crate::ErrorKind::LockTimeout) if a lock of
    /// another session prevents the creation for more than 8 s.
    pub async fn create_operation_table(&self) -> Result<(), Error> {
        self.create_schema(DB::CREATE_OPERATIONS).await
    }

    /// Creates tables of the crate if they do not exist, even if other processes do so at the same time.
    ///
    /// If another session holds a lock, waits for it repeatedly for one second each, because all later
    /// statements on the table queue behind each wait.
    pub(crate) async fn create_schema(&self, schema: &'static str) -> Result<(), Error> {
        let creating = self.under(SchemaCreation);
        let begun = Instant::now();
        loop {
            let sql = AssertSqlSafe(DB::create_missing(schema)).into_sql_str();
            let created =
                creating.run_on_connection(sql, |connection, _| create::<DB>(connection, schema)).await;
            match created {
                Err(error) if error.is_lock_timeout() && begun.elapsed() < LOCK_LIMIT => sleep(PAUSE).await,
                created => return created,
            }
        }
    }

    /// Deletes the operations that are older than `older_than`, in batches, and returns how many were
    /// deleted.
    ///
    /// Choose an age above the longest deadline: an operation is needed only until its run ends.
    ///
    /// # Errors
    ///
    /// Returns the failure of the database. Earlier batches stay deleted.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. The current batch may or may not be deleted.
    pub async fn purge_operations(&self, older_than: Duration) -> Result<u64, Error> {
        let mut removed = 0;
        loop {
            match self.run_statement(statement(DB::purge_operations(older_than))?).await? {
                0 => return Ok(removed),
                batch => removed += batch,
            }
        }
    }
}

/// The time after which no further wait for a lock on a table begins.
const LOCK_LIMIT: Duration = Duration::from_secs(8);

/// The pause between two waits, in which the statements that queued behind the last one can run.
const PAUSE: Duration = Duration::from_millis(200);

/// Retries every retryable failure except a lock timeout, which [`PoolTransactor::create_schema`] handles.
#[derive(Debug)]
struct SchemaCreation;

impl Strategy for SchemaCreation {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted)
    }

    fn verdict(&self, failure: &Failure) -> Verdict {
        if failure.kind() == FailureKind::LockTimeout || !failure.is_retryable() {
            Verdict::GiveUp
        } else {
            Verdict::RunAgain
        }
    }
}

/// Creates the tables that do not exist, and restores the settings of the session.
fn create<'c, DB: Backend>(
    connection: &'c mut DB::Connection,
    schema: &'static str,
) -> BoxFuture<'c, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let Some(error) = DB::send_text(connection, DB::create_missing(schema)).await.error else {
            return Ok(());
        };
        if let Some(restore) = DB::RESTORE_AFTER_FAILED_CREATION {
            // If this fails as well, the session is closed because of the first error.
            let _ = DB::send_text(connection, restore.to_owned()).await;
        }
        Err(error)
    })
}

fn statement<DB: Backend>(sql: String) -> Result<WatchedQuery<DB>, Error> {
    Ok(WatchedQuery::new(sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str()))?)
}
