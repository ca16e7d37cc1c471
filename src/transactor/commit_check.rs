//! Asking for a transaction whose commit went unanswered.

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, TransactionStatus, failure_or_other};
use crate::failure::Failure;
use crate::tx::{ConnectionReuse, PooledSession, not_connected};

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitStatus {
    /// It is stored.
    Committed,
    /// It is not, and never will be.
    Aborted,
    /// It may yet be stored.
    Pending,
    /// The server cannot tell any more.
    Unknown,
}

/// Asks on a connection of its own; fails where none is to be had.
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
        // It does not know the number: of another life of the server, or long forgotten.
        Some(sqlx::Error::Database(_)) => Ok(CommitStatus::Unknown),
        Some(error) => Err(failure_or_other::<DB>(&error)),
    }
}

/// That a transaction was rolled back may be believed in any case: one that was stored is never forgotten.
/// That it was stored, only of the server that it began on.
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
    fn committed_is_believed_of_the_same_server_only() {
        assert_eq!(status_from(&[1, 1]), CommitStatus::Committed);
        assert_eq!(status_from(&[1, 0]), CommitStatus::Unknown);
        assert_eq!(status_from(&[3, 1]), CommitStatus::Pending);
        assert_eq!(status_from(&[3, 0]), CommitStatus::Unknown);
    }

    #[test]
    fn aborted_is_believed_of_any() {
        assert_eq!(status_from(&[2, 1]), CommitStatus::Aborted);
        assert_eq!(status_from(&[2, 0]), CommitStatus::Aborted);
    }

    #[test]
    fn nothing_else_is_believed() {
        assert_eq!(status_from(&[0, 1]), CommitStatus::Unknown);
        assert_eq!(status_from(&[]), CommitStatus::Unknown);
    }
}
