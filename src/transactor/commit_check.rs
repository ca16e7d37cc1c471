//! Asks the server for the status of a transaction whose commit was never acknowledged.

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, TransactionStatus, failure_or_other};
use crate::failure::Failure;
use crate::schema::Schema;
use crate::strategy::CommitMarker;
use crate::tx::{ConnectionReuse, PooledSession, not_connected};

/// The status of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitStatus {
    /// The transaction is stored.
    Committed,
    /// The transaction is not stored, and never will be.
    Aborted,
    /// The transaction is still running, and may yet be stored.
    Pending,
    /// The server no longer knows.
    Unknown,
}

/// Looks up the status on a connection of its own. Fails if no connection can be acquired.
pub(super) async fn commit_status<DB: Backend>(
    pool: &Pool<DB>,
    answered: &[i64],
) -> Result<CommitStatus, Failure> {
    let Some(question) = DB::status_query(answered) else { return Ok(CommitStatus::Unknown) };
    let (reuse, since) = (ConnectionReuse::off(), Instant::now());
    let mut session =
        PooledSession::acquire(pool, &reuse).await.map_err(|error| not_connected(pool, since, &error))?;
    let reply = DB::send_text(session.connection(), question).await;
    match reply.error {
        None => {
            session.release();
            Ok(status_from(&reply.integers))
        }
        // The server does not know the id: it was assigned before a restart, or too long ago.
        Some(sqlx::Error::Database(_)) => Ok(CommitStatus::Unknown),
        Some(error) => Err(failure_or_other::<DB>(&error)),
    }
}

/// Looks up which of these attempts at an operation is stored, on a connection of its own, after its row was
/// found. Returns `None` if the server that is asked does not have the row yet. All attempts but the first
/// one have a row of their own.
pub(super) async fn stored_attempt<DB: Backend>(
    pool: &Pool<DB>,
    schema: Schema,
    id: u128,
    attempts: &[u32],
) -> Result<Option<u32>, Failure> {
    let (reuse, since) = (ConnectionReuse::off(), Instant::now());
    let mut session =
        PooledSession::acquire(pool, &reuse).await.map_err(|error| not_connected(pool, since, &error))?;
    let reply = DB::send_text(session.connection(), schema.in_sql(attempt_query::<DB>(id, attempts))).await;
    match reply.error {
        None => {
            session.release();
            Ok(attempt_from(&reply.integers, attempts))
        }
        Some(error) => Err(failure_or_other::<DB>(&error)),
    }
}

/// Returns the query for the rows of an operation: 0 for its own, and the numbers of the later attempts.
fn attempt_query<DB: Backend>(id: u128, attempts: &[u32]) -> String {
    let own = (DB::operation_id(id), 0);
    let later = attempts.iter().skip(1);
    let later = later.map(|number| (DB::operation_id(CommitMarker::row_of_attempt(id, *number)), *number));
    let rows: Vec<(String, u32)> = std::iter::once(own).chain(later).collect();
    let cases: Vec<_> = rows.iter().map(|(id, number)| format!("WHEN id = {id} THEN {number}")).collect();
    let ids: Vec<_> = rows.iter().map(|(id, _)| id.as_str()).collect();
    format!(
        "SELECT CAST(CASE {} END AS {}) FROM atomically_operation WHERE id IN ({})",
        cases.join(" "),
        DB::INTEGER_TYPE,
        ids.join(", ")
    )
}

/// Reads the reply to [`attempt_query`].
fn attempt_from(reply: &[i64], attempts: &[u32]) -> Option<u32> {
    if !reply.contains(&0) {
        return None;
    }
    let is_stored = |number: &&u32| reply.contains(&i64::from(**number));
    attempts.iter().skip(1).find(is_stored).or(attempts.first()).copied()
}

/// Reads the server's reply: the status, and whether this is the server on which the transaction began,
/// without a restart since.
///
/// "Aborted" is always trusted, because a server never forgets a stored transaction. The other statuses are
/// trusted only from that server.
fn status_from(reply: &[i64]) -> CommitStatus {
    match reply {
        [TransactionStatus::ABORTED, _] => CommitStatus::Aborted,
        [TransactionStatus::COMMITTED, 1] => CommitStatus::Committed,
        [TransactionStatus::IN_PROGRESS, 1] => CommitStatus::Pending,
        _ => CommitStatus::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_is_trusted_from_the_same_server_only() {
        assert_eq!(status_from(&[1, 1]), CommitStatus::Committed);
        assert_eq!(status_from(&[1, 0]), CommitStatus::Unknown);
        assert_eq!(status_from(&[3, 1]), CommitStatus::Pending);
        assert_eq!(status_from(&[3, 0]), CommitStatus::Unknown);
    }

    #[test]
    fn aborted_is_trusted_from_any_server() {
        assert_eq!(status_from(&[2, 1]), CommitStatus::Aborted);
        assert_eq!(status_from(&[2, 0]), CommitStatus::Aborted);
    }

    #[test]
    fn the_stored_attempt_is_the_one_whose_row_exists_or_else_the_first() {
        assert_eq!(attempt_from(&[0], &[1, 2, 4]), Some(1));
        assert_eq!(attempt_from(&[2, 0], &[1, 2, 4]), Some(2));
        assert_eq!(attempt_from(&[0, 4], &[1, 2, 4]), Some(4));
        assert_eq!(attempt_from(&[], &[1, 2, 4]), None, "the server does not have the commit yet");
    }

    #[cfg(feature = "sqlite")]
    fn row<DB: Backend>(id: u128) -> String {
        DB::operation_id(id)
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn attempts_are_looked_up_by_the_rows_of_the_later_ones() {
        let query = attempt_query::<sqlx::Sqlite>(0xa0, &[1, 3]);
        let (own, third) = (row::<sqlx::Sqlite>(0xa0), row::<sqlx::Sqlite>(0xa3));
        assert_eq!(
            query,
            format!(
                "SELECT CAST(CASE WHEN id = {own} THEN 0 WHEN id = {third} THEN 3 END AS INTEGER) \
                 FROM atomically_operation WHERE id IN ({own}, {third})"
            )
        );
    }

    #[test]
    fn any_other_reply_is_unknown() {
        assert_eq!(status_from(&[0, 1]), CommitStatus::Unknown);
        assert_eq!(status_from(&[]), CommitStatus::Unknown);
    }
}
