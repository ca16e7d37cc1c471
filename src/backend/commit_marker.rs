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

    /// Returns the literal for the id of an operation, in hexadecimal.
    fn operation_literal(hex: &str) -> String;

    /// Returns the literal for the id of an operation.
    fn operation_id(id: u128) -> String {
        Self::operation_literal(&format!("{id:032x}"))
    }

    /// Returns the statement that records an operation, and the attempt at it if others may be stored in its
    /// place.
    fn record_operation(id: u128, later_attempt: Option<u32>) -> String {
        let attempt = later_attempt.map(|number| CommitMarker::row_of_attempt(id, number));
        let rows: Vec<_> = [Some(id), attempt]
            .into_iter()
            .flatten()
            .map(|id| format!("({})", Self::operation_id(id)))
            .collect();
        format!("INSERT INTO atomically_operation (id) VALUES {}", rows.join(", "))
    }
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

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use sqlx::MySql;

    use super::*;

    #[test]
    fn a_later_attempt_has_the_row_of_its_operation_and_one_of_its_own() {
        let first = CommitMarker::Operation { id: 0xa0, later_attempt: None };
        let text = |marker| MySql::marker(marker).expect("it is supported");
        let zeros = "0".repeat(30);
        let insert = "INSERT INTO atomically_operation (id) VALUES";
        assert_eq!(text(first), format!("{insert} (x'{zeros}a0')"));
        let later = first.of_later_attempt(3);
        assert_eq!(text(later), format!("{insert} (x'{zeros}a0'), (x'{zeros}a3')"));
        assert_eq!(later.of_later_attempt(4).without_attempt(), first);
    }

    #[test]
    fn the_row_of_an_attempt_has_an_id_even_if_that_of_its_operation_is_the_last() {
        assert_eq!(CommitMarker::row_of_attempt(u128::MAX, 2), 1);
    }
}
