//! The table that tells what became of a commit.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::backend::{Backend, Facts, WatchedQuery};
use crate::error::Error;
use crate::policy::Strategy;

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
    /// Looks in the catalog first: where the table is there, nothing is locked, so it may be called at each start.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn create_operation_table(&self) -> Result<(), Error> {
        self.create_schema(DB::CREATE_OPERATIONS).await
    }

    /// Makes tables of the crate's own where they are missing, also when other processes do so at the same time.
    pub(crate) async fn create_schema(&self, schema: &'static str) -> Result<(), Error> {
        self.run_statement(statement(DB::creation(schema))?).await.map(drop)
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

fn statement<DB: Backend>(sql: String) -> Result<WatchedQuery<DB>, Error> {
    Ok(WatchedQuery::new(sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str()))?)
}
