//! The table of operations, by which an unknown commit can be resolved.

use std::time::Duration;

use crate::backend::{Backend, WatchedQuery, required};
use crate::error::Error;
use crate::isolation::Isolation;
use crate::row_lock::RowLock;
use crate::schema::SchemaPart;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::tx::Tx;

use super::{PoolTransactor, TransactorExt as _};

/// # The table of operations
///
/// Methods for the table that [`Options::resolve_commits`](crate::Options::resolve_commits) needs.
impl<DB: Backend, S: Strategy> PoolTransactor<DB, S> {
    /// Creates the table of operations if it does not exist: [`Schema::create`](crate::Schema::create) for
    /// [`SchemaPart::Operations`].
    ///
    /// # Errors
    ///
    /// Those of [`Schema::create`](crate::Schema::create).
    pub async fn create_operation_table(&self) -> Result<(), Error> {
        self.create_part(SchemaPart::Operations).await
    }

    /// Deletes the operations that are older than `older_than`, a thousand per transaction, and returns how
    /// many were deleted. [`Purge`](crate::Purge) does that at intervals.
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
        let find = &self.schema().in_sql(DB::old_operations(older_than));
        let table = &self.schema().everywhere_in("atomically_operation");
        let db = self.for_upkeep(Upkeep);
        let mut removed = 0;
        loop {
            // The rows are found first, and then deleted by their ids: InnoDB locks each row that a DELETE
            // reads, and would wait for those of open transactions.
            let purge = async |tx: &mut Tx<DB>| {
                let mut ids = Vec::new();
                for row in
                    tx.fetch_rows(WatchedQuery::with_values(tx.engine().in_sql(find.clone()), [])?).await?
                {
                    ids.push(DB::operation_literal(&required(DB::text(&row, 0)?, 0)?));
                }
                if ids.is_empty() {
                    return Ok::<_, Error>(None);
                }
                let delete = format!("DELETE FROM {table} WHERE id IN ({})", ids.join(", "));
                Ok(Some(tx.execute_query(WatchedQuery::with_values(delete, [])?).await?))
            };
            match db.run(purge).await? {
                None => return Ok(removed),
                Some(batch) => removed += batch,
            }
        }
    }
}

/// Deletes rows. Above READ COMMITTED, InnoDB would also lock the gaps between them.
#[derive(Debug)]
struct Upkeep;

impl Strategy for Upkeep {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted).locking(RowLock::NO_KEY_UPDATE)
    }
}
