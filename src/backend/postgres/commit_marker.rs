//! Commit markers: rows in the table of operations, and the status of transactions that the server keeps.

use std::time::Duration;

use sqlx::Postgres;

use crate::backend::commit_marker::{CommitMarkerSql, TransactionStatus};
use crate::failure::Failure;
use crate::strategy::CommitMarker;

impl CommitMarkerSql for Postgres {
    fn marker(marker: CommitMarker) -> Result<String, Failure> {
        Ok(match marker {
            CommitMarker::Operation { id, later_attempt } => Self::record_operation(id, later_attempt),
            CommitMarker::TransactionStatus => {
                format!(
                    "SELECT unnest(ARRAY[pg_current_xact_id()::text::bigint, {INCARNATION}]) \
                     FROM pg_control_checkpoint()"
                )
            }
        })
    }

    fn status_query(marker: &[i64]) -> Option<String> {
        let [number, started, timeline, checkpoint] = marker else { return None };
        Some(format!(
            "SELECT unnest(ARRAY[\
                 CASE pg_xact_status('{number}') WHEN 'committed' THEN {} WHEN 'aborted' THEN {} \
                 WHEN 'in progress' THEN {} ELSE 0 END, \
                 CASE WHEN ARRAY[{INCARNATION}] = ARRAY[{started}, {timeline}, {checkpoint}]::bigint[] \
                 THEN 1 ELSE 0 END\
             ]::bigint[]) FROM pg_control_checkpoint()",
            TransactionStatus::COMMITTED,
            TransactionStatus::ABORTED,
            TransactionStatus::IN_PROGRESS,
        ))
    }
    fn old_operations(older_than: Duration) -> String {
        format!(
            "SELECT encode(id, 'hex') FROM atomically_operation \
             WHERE recorded_at < now() - interval '1 second' * {} LIMIT 1000 FOR UPDATE SKIP LOCKED",
            older_than.as_secs()
        )
    }

    fn operation_literal(hex: &str) -> String {
        format!("'\\x{hex}'")
    }
}

/// Changes whenever the server may have reused transaction ids after a crash: its start time, its timeline,
/// and its last checkpoint, which recovery writes before anything else.
const INCARNATION: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
                           timeline_id::bigint, (checkpoint_lsn - '0/0')::bigint";
