//! Claims a key: writes its row, or finds the row of another run.

use crate::backend::Backend;
use crate::error::Error;
use crate::tx::Tx;

use super::claimant::Claimant;
use super::error::KeyError;
use super::sql::{KeyFound, KeyRow, KeySql, KeyWrite};

/// How often to try to claim a key whose row disappears between the write and the read, or has expired.
const ROUNDS: u32 = 5;

/// The result of claiming a key.
#[derive(Debug)]
pub(super) enum ClaimOutcome {
    /// This transaction has written the row.
    Ours,
    /// The earlier attempt of this run with this number has committed, with this response.
    Earlier(u32, String),
    /// Another run has committed, with this response.
    Others(String),
    /// Another run has written the row and has stored no response yet, or the row changed in each round.
    Unanswered,
    /// Another run has used the key for a different request.
    Mismatch,
}

impl Claimant {
    /// Claims the key. Waits for a twin whose transaction is open. A row that was committed after this
    /// transaction's snapshot is either read or causes a serialization failure; it is never missed.
    pub(super) async fn claim<DB: Backend>(&self, tx: &mut Tx<DB>) -> Result<ClaimOutcome, Error> {
        let mut write = KeyWrite::Insert;
        for _ in 0..ROUNDS {
            let found = KeySql::of::<DB>().claim(tx, self, &write).await.map_err(KeyError::or_other::<DB>)?;
            write = match found {
                KeyFound::Written => return Ok(ClaimOutcome::Ours),
                // The row was released or purged between the write and the read.
                KeyFound::Nothing => KeyWrite::Insert,
                KeyFound::Row(row) => match self.attempt_of(&row.run) {
                    Some(attempt) => return Ok(Self::own(row, attempt)),
                    None if row.has_expired() => KeyWrite::TakeOver(row.run),
                    None => return Ok(self.others(row)),
                },
            };
        }
        Ok(ClaimOutcome::Unanswered)
    }

    /// The row without a response is that of this transaction: a response is stored with its key.
    fn own(row: KeyRow, attempt: u32) -> ClaimOutcome {
        row.response.map_or(ClaimOutcome::Ours, |response| ClaimOutcome::Earlier(attempt, response))
    }

    fn others(&self, row: KeyRow) -> ClaimOutcome {
        if row.fingerprint != self.terms.key.fingerprint {
            return ClaimOutcome::Mismatch;
        }
        row.response.map_or(ClaimOutcome::Unanswered, ClaimOutcome::Others)
    }
}
