//! Asking for a transaction whose commit went unanswered.

use sqlx::Pool;
use tokio::time::Instant;

use crate::backend::{Backend, TransactionStatus, failure_or_other};
use crate::failure::Failure;
use crate::tx::{Handoff, Session, not_connected};

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is stored.
    Committed,
    /// It is not, and never will be.
    Aborted,
    /// It may yet be stored.
    Pending,
    /// The server cannot tell any more.
    Untold,
}

/// Asks on a connection of its own; fails where none is to be had.
pub(super) async fn fate<DB: Backend>(pool: &Pool<DB>, answered: &[i64]) -> Result<Fate, Failure> {
    let Some(question) = DB::ask_for_status(answered) else { return Ok(Fate::Untold) };
    let (handoff, since) = (Handoff::off(), Instant::now());
    let mut session =
        Session::acquire(pool, &handoff).await.map_err(|error| not_connected(pool, since, &error))?;
    let reply = DB::send_text(session.connection(), question).await;
    match reply.error {
        None => {
            session.release();
            Ok(fate_from(&reply.integers))
        }
        // It does not know the number: of another life of the server, or long forgotten.
        Some(sqlx::Error::Database(_)) => Ok(Fate::Untold),
        Some(error) => Err(failure_or_other::<DB>(&error)),
    }
}

/// That a transaction was rolled back may be believed in any case: one that was stored is never forgotten.
/// That it was stored, only of the server that it began on.
fn fate_from(reply: &[i64]) -> Fate {
    match reply {
        [TransactionStatus::ABORTED, _] => Fate::Aborted,
        [TransactionStatus::COMMITTED, 1] => Fate::Committed,
        [TransactionStatus::IN_PROGRESS, 1] => Fate::Pending,
        _ => Fate::Untold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_is_believed_of_the_same_server_only() {
        assert_eq!(fate_from(&[1, 1]), Fate::Committed);
        assert_eq!(fate_from(&[1, 0]), Fate::Untold);
        assert_eq!(fate_from(&[3, 1]), Fate::Pending);
        assert_eq!(fate_from(&[3, 0]), Fate::Untold);
    }

    #[test]
    fn aborted_is_believed_of_any() {
        assert_eq!(fate_from(&[2, 1]), Fate::Aborted);
        assert_eq!(fate_from(&[2, 0]), Fate::Aborted);
    }

    #[test]
    fn nothing_else_is_believed() {
        assert_eq!(fate_from(&[0, 1]), Fate::Untold);
        assert_eq!(fate_from(&[]), Fate::Untold);
    }
}
