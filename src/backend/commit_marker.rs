//! Markers that identify a transaction, so that its commit can be looked up later.

use std::time::Duration;

use sqlx::Database;

use crate::failure::Failure;
use crate::strategy::CommitMarker;

/// The SQL that writes commit markers and looks them up.
#[doc(hidden)]
pub trait CommitMarkerSql: Database {
    /// Returns the statement that writes a marker, which is sent last in the opening. Fails if the database
    /// does not support the marker.
    fn marker(marker: CommitMarker) -> Result<String, Failure>;

    /// Returns the query for the status of the transaction whose marker statement returned `marker`. The
    /// query returns the [`TransactionStatus`] and, as 1 or 0, whether that can be trusted.
    fn status_query(_marker: &[i64]) -> Option<String> {
        None
    }

    /// Returns the query for the ids, in hexadecimal, of up to a thousand operations that are older than
    /// this.
    fn old_operations(older_than: Duration) -> String;

    /// Returns the literal for the id of an operation.
    fn operation_literal(hex: &str) -> String;
}

/// The integers that [`status_query`](CommitMarkerSql::status_query) returns for the state of a
/// transaction.
#[derive(Debug)]
pub(crate) struct TransactionStatus;

impl TransactionStatus {
    /// The transaction is stored.
    pub(crate) const COMMITTED: i64 = 1;
    /// The transaction is not stored, and never will be.
    pub(crate) const ABORTED: i64 = 2;
    /// The transaction has not ended.
    pub(crate) const IN_PROGRESS: i64 = 3;
}
