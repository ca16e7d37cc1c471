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
/// stored, and which one it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant {
    pub(super) terms: ClaimTerms,
    /// Identifies this run, and the attempt in the last bytes: no other run has the same bytes before them.
    pub(super) run: [u8; 16],
}

/// The number of the last bytes that identify the attempt.
const ATTEMPT: usize = size_of::<u32>();

impl Claimant {
    /// Returns the claimant of an attempt of this run.
    pub(super) fn of_attempt(mut self, number: u32) -> Self {
        if let Some(attempt) = self.run.last_chunk_mut::<ATTEMPT>() {
            *attempt = number.to_be_bytes();
        }
        self
    }

    /// Returns the number of the attempt that has written this id; `None` if it was another run.
    pub(super) fn attempt_of(&self, run: &[u8]) -> Option<u32> {
        let (ours, _) = self.run.split_last_chunk::<ATTEMPT>()?;
        let (run, attempt) = run.split_last_chunk::<ATTEMPT>()?;
        (run == ours).then(|| u32::from_be_bytes(*attempt))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_recognises_the_rows_of_its_attempts() {
        let key = IdempotencyKey::new("payments", "1").expect("a key");
        let [one, other] = [(); 2].map(|()| ClaimTerms::new(key).new_run());
        assert_eq!(one.of_attempt(3).attempt_of(&one.of_attempt(2).run), Some(2));
        assert_eq!(one.of_attempt(3).attempt_of(&one.of_attempt(3).run), Some(3));
        assert_eq!(one.attempt_of(&other.of_attempt(2).run), None);
        assert_eq!(one.attempt_of(&[]), None);
    }
}
