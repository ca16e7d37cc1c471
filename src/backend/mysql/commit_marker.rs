//! Commit markers in the table of operations.

use std::time::Duration;

use sqlx::MySql;

use crate::backend::commit_marker::CommitMarkerSql;
use crate::failure::Failure;
use crate::strategy::CommitMarker;

impl CommitMarkerSql for MySql {
    fn marker(marker: CommitMarker) -> Result<String, Failure> {
        match marker {
            CommitMarker::Operation { id, later_attempt } => Ok(Self::record_operation(id, later_attempt)),
            CommitMarker::TransactionStatus => {
                Err(Failure::unsupported("MySQL", "record of the status of ended transactions"))
            }
        }
    }

    fn old_operations(older_than: Duration) -> String {
        format!(
            "SELECT CONVERT(HEX(id) USING utf8mb4) FROM atomically_operation \
             WHERE recorded_at < CURRENT_TIMESTAMP - INTERVAL {} SECOND LIMIT 1000",
            older_than.as_secs()
        )
    }

    fn operation_literal(hex: &str) -> String {
        format!("x'{hex}'")
    }
}
