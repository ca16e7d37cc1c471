//! Runs that claim a key.

use std::time::Duration;

use super::key::IdempotencyKey;

/// A century: the date types of the databases do not reach much further.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The key that a run claims, with the settings of its builder.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimTerms {
    pub(super) key: IdempotencyKey,
    pub(super) expires_after: Duration,
    /// How long to wait for another run with the same key. `None`: as long as the transaction waits for
    /// locks.
    pub(super) wait: Option<Duration>,
}

/// One run with a key. All its attempts write the same row, so that each recognises what an earlier one has
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

    /// Starts a run. Each run has an id of its own: if a builder is run twice, the second run must not
    /// mistake the row of the first one for that of an earlier attempt.
    pub(super) fn new_run(self) -> Claimant {
        Claimant { terms: self, run: rand::random() }
    }

    /// Returns how long the key is kept, in whole seconds.
    pub(super) fn life(&self) -> u128 {
        self.expires_after.min(MAX_LIFE).as_millis().div_ceil(1000).max(1)
    }
}
