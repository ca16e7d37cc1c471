//! Writing the row of a key, or finding who did.

use crate::backend::Backend;
use crate::error::Error;
use crate::tx::Tx;

use super::claimant::Claimant;
use super::error::KeyError;
use super::sql::{KeyFound, KeyRow, KeySql, KeyWrite};

/// How often a row may go away between the attempt to write it and the look at it, or turn out to have
/// expired.
const ROUNDS: u32 = 5;

/// Whose key it is.
#[derive(Debug)]
pub(super) enum ClaimOutcome {
    /// This transaction's: the row is written.
    Ours,
    /// An earlier attempt's of this run, which is stored, with this response.
    Earlier(String),
    /// Somebody else's, who has answered this.
    Others(String),
    /// Somebody else's, who has not answered.
    Unanswered,
    /// Somebody else's, for another request.
    Mismatch,
}

impl Claimant {
    /// KeyWaits for a twin whose transaction is open. What is found then is read in a way that sees what was
    /// committed after this transaction's snapshot, or fails as a serialization failure.
    pub(super) async fn claim<DB: Backend>(&self, tx: &mut Tx<DB>) -> Result<ClaimOutcome, Error> {
        let mut write = KeyWrite::Insert;
        for _ in 0..ROUNDS {
            let found = KeySql::of::<DB>().claim(tx, self, &write).await.map_err(KeyError::or_other)?;
            write = match found {
                KeyFound::Written => return Ok(ClaimOutcome::Ours),
                // It was released or purged in between.
                KeyFound::Nothing => KeyWrite::Insert,
                KeyFound::Row(row) if row.run == self.run => {
                    return Ok(row.response.map_or(ClaimOutcome::Ours, ClaimOutcome::Earlier));
                }
                KeyFound::Row(row) if row.has_expired() => KeyWrite::TakeOver(row.run),
                KeyFound::Row(row) => return Ok(self.others(row)),
            };
        }
        Ok(ClaimOutcome::Unanswered)
    }

    fn others(&self, row: KeyRow) -> ClaimOutcome {
        if row.fingerprint != self.terms.key.fingerprint {
            return ClaimOutcome::Mismatch;
        }
        row.response.map_or(ClaimOutcome::Unanswered, ClaimOutcome::Others)
    }
}
