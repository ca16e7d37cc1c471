//! The table that tells what became of a commit.

use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, Facts, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy, Verdict};

use super::PoolTransactor;

/// # The table of operations
///
/// For [`Options::resolve_commits`](crate::Options::resolve_commits).
impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// The statement that makes the table of operations where it is missing, for migrations of your own.
    #[must_use]
    pub fn operation_schema() -> &'static str {
        <DB as Facts>::CREATE_OPERATIONS
    }

    /// Makes the table of operations where it is missing.
    ///
    /// Looks in the catalog first: where the table is there, nothing is locked, so it may be called at each
    /// start.
    ///
    /// # Errors
    ///
    /// The database's; a [`LockTimeout`](crate::ErrorKind::LockTimeout) where a lock keeps the table from
    /// being made.
    pub async fn create_operation_table(&self) -> Result<(), Error> {
        self.create_schema(DB::CREATE_OPERATIONS).await
    }

    /// Makes tables of the crate's own where they are missing, also when other processes do so at the same
    /// time.
    ///
    /// A lock that others hold is waited for several times, a second each: whoever comes later waits behind
    /// it.
    pub(crate) async fn create_schema(&self, schema: &'static str) -> Result<(), Error> {
        let creating = self.under(Creating);
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

    /// Removes the rows of operations that are older than this, in batches, and answers how many there were.
    ///
    /// Any age above the longest deadline will do: an operation is only asked for while its run lasts.
    ///
    /// # Errors
    ///
    /// The database's; what was removed until then stays removed.
    ///
    /// # Cancellation
    ///
    /// The batch at hand may or may not be removed.
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

/// How long a lock on a table is waited for, all in all: no wait begins after it.
const LOCK_LIMIT: Duration = Duration::from_secs(8);

/// Between two waits, for those who have been waiting behind the last one.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs again as others do, but for a lock that is not granted.
#[derive(Debug)]
struct Creating;

impl Strategy for Creating {
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

/// Creates what is missing, and leaves the settings of the session as they were.
fn create<'c, DB: Backend>(
    connection: &'c mut DB::Connection,
    schema: &'static str,
) -> BoxFuture<'c, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let Some(error) = DB::send_text(connection, DB::create_missing(schema)).await.error else {
            return Ok(());
        };
        if let Some(put_back) = DB::RESTORE_AFTER_FAILED_CREATION {
            // A session that does not answer is closed because of the first error.
            let _ = DB::send_text(connection, put_back.to_owned()).await;
        }
        Err(error)
    })
}

fn statement<DB: Backend>(sql: String) -> Result<WatchedQuery<DB>, Error> {
    Ok(WatchedQuery::new(sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str()))?)
}
