//! What a transaction leaves behind so that its commit can be found again.

use std::time::Duration;

use sqlx::Database;

use super::engine::Engine;
use crate::failure::Failure;
use crate::strategy::CommitMarker;

/// The SQL that writes commit markers and looks them up.
#[doc(hidden)]
pub trait CommitMarkerSql: Database {
    /// Whether a transaction that has written a unique key can rely on no other transaction committing the
    /// same key. On the nodes of a Galera cluster that is certain at the commit only.
    fn unique_keys_fence(_engine: Engine) -> bool {
        true
    }

    /// Returns the statement, last of the opening, that leaves a marker, or the failure that the database
    /// does not support it.
    fn marker(marker: CommitMarker) -> Result<String, Failure>;

    /// Returns the query for the status of the transaction whose marker statement returned `marker`. It
    /// returns the [`TransactionStatus`] and, as 1 or 0, whether that can be trusted.
    fn status_query(_marker: &[i64]) -> Option<String> {
        None
    }

    /// Returns the statement that removes up to a thousand operations that are older than this.
    fn purge_operations(older_than: Duration) -> String;
}

/// The integers that [`status_query`](CommitMarkerSql::status_query) returns for the state of a
/// transaction.
#[derive(Debug)]
pub(crate) struct TransactionStatus;

impl TransactionStatus {
    /// It is stored.
    pub(crate) const COMMITTED: i64 = 1;
    /// It is not stored, and never will be.
    pub(crate) const ABORTED: i64 = 2;
    /// It has not ended.
    pub(crate) const IN_PROGRESS: i64 = 3;
}
