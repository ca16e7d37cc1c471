//! Which key a run claims, and on which terms.

use std::time::Duration;

use super::key::IdempotencyKey;

/// A century. The clocks of the databases do not reach much further.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The key that a run claims, and how: what the builders collect before anything runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimTerms {
    pub(super) key: IdempotencyKey,
    pub(super) expires_after: Duration,
    /// How long to wait for another run with the same key; `None` leaves it to the limits of the transaction.
    pub(super) wait: Option<Duration>,
}

/// One run under a key. All its attempts write the same row, so that each recognises what an earlier one has
/// stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant {
    pub(super) terms: ClaimTerms,
    /// Identifies this run: no other run has the same id.
    pub(super) run: [u8; 16],
}

impl ClaimTerms {
    pub(super) fn new(key: IdempotencyKey) -> Self {
        Self { key, expires_after: Duration::from_secs(24 * 60 * 60), wait: Some(Duration::from_secs(1)) }
    }

    /// A new run under these terms. The id is drawn for each run and not with the terms: a value that is run
    /// twice would take the row of its first run for one of its own attempts.
    pub(super) fn new_run(self) -> Claimant {
        Claimant { terms: self, run: rand::random() }
    }

    /// In whole seconds.
    pub(super) fn life(&self) -> u128 {
        self.expires_after.min(MAX_LIFE).as_millis().div_ceil(1000).max(1)
    }
}
