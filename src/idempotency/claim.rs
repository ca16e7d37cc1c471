//! Writing the row of a key, or finding who did.

use std::time::Duration;

use crate::error::Error;
use crate::tx::Tx;

use super::error::KeyError;
use super::key::IdempotencyKey;
use super::sql::{Found, KeyStore, Row, Write};

/// How often a row may go away between the attempt to write it and the look at it, or turn out to have expired.
const ROUNDS: u32 = 5;

/// A century: beyond what the databases' clocks are good for.
const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What a run is to claim, and how: what the builders collect before anything runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) key: IdempotencyKey,
    pub(super) expires_after: Duration,
    /// How long to wait for another run with the same key; `None` leaves it to the limits of the transaction.
    pub(super) wait: Option<Duration>,
}

/// One run under a key. All its attempts write the same row, so that each recognises what an earlier one has stored.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Claimant {
    pub(super) terms: Terms,
    /// Identifies this run: no other run has the same id.
    pub(super) run: [u8; 16],
}

/// Whose key it is.
#[derive(Debug)]
pub(super) enum Claim {
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

impl Terms {
    pub(super) fn new(key: IdempotencyKey) -> Self {
        Self { key, expires_after: Duration::from_secs(24 * 60 * 60), wait: Some(Duration::from_secs(1)) }
    }

    /// A new run under these terms. The id is drawn for each run and not with the terms: a value that is run twice would
    /// take the row of its first run for one of its own attempts.
    pub(super) fn new_run(self) -> Claimant {
        Claimant { terms: self, run: rand::random() }
    }

    /// In whole seconds.
    pub(super) fn life(&self) -> u128 {
        self.expires_after.min(LONGEST_LIFE).as_millis().div_ceil(1000).max(1)
    }
}

impl Claimant {
    /// Waits for a twin whose transaction is open. What is found then is read in a way that sees what was committed after
    /// this transaction's snapshot, or fails as a serialization failure.
    pub(super) async fn claim<DB: KeyStore>(&self, tx: &mut Tx<DB>) -> Result<Claim, Error> {
        let mut write = Write::Insert;
        for _ in 0..ROUNDS {
            let found = DB::claim(tx, self, &write).await.map_err(KeyError::or_other)?;
            write = match found {
                Found::Written => return Ok(Claim::Ours),
                // It was released or purged in between.
                Found::Nothing => Write::Insert,
                Found::Row(row) if row.run == self.run => {
                    return Ok(row.response.map_or(Claim::Ours, Claim::Earlier));
                }
                Found::Row(row) if row.has_expired() => Write::TakeOver(row.run),
                Found::Row(row) => return Ok(self.others(row)),
            };
        }
        Ok(Claim::Unanswered)
    }

    fn others(&self, row: Row) -> Claim {
        if row.fingerprint != self.terms.key.fingerprint {
            return Claim::Mismatch;
        }
        row.response.map_or(Claim::Unanswered, Claim::Others)
    }
}
