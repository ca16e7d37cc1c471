//! Earlier commits of the same run whose outcome is unknown.

use crate::failure::Failure;
use crate::strategy::CommitMarker;
use crate::tx::Hooks;

/// What an attempt has to know about earlier commits.
pub(super) enum PriorCommit {
    /// No commit was sent, or every commit that was sent is known not to be stored.
    None,
    /// COMMIT was sent and its outcome is unknown.
    Unknown {
        failure: Failure,
        /// Identifies the commit for a lookup; `None` if the unit detects its own commits.
        marker: Option<CommitMarker>,
        /// The integers that the opening of the transaction returned: its id, for a status check.
        answered: Vec<i64>,
        /// The attempts of which at most one is stored. There are several only if a later attempt does not
        /// keep an earlier one from being stored, as on a cluster.
        attempts: Vec<UnknownAttempt>,
    },
}

/// An attempt whose commit is unknown.
pub(super) struct UnknownAttempt {
    pub(super) number: u32,
    /// The hooks, which run once the outcome is known.
    pub(super) hooks: Hooks,
}

impl PriorCommit {
    /// Adds the commit of another attempt. Those before it stay unknown.
    pub(super) fn add(
        &mut self,
        failure: Failure,
        (marker, answered): (Option<CommitMarker>, Vec<i64>),
        attempt: UnknownAttempt,
    ) {
        let mut attempts = match std::mem::replace(self, Self::None) {
            Self::None => Vec::new(),
            Self::Unknown { attempts, .. } => attempts,
        };
        attempts.push(attempt);
        *self = Self::Unknown { failure, marker, answered, attempts };
    }

    /// Returns whether the next attempt has to ask the server for the status of the commit.
    pub(super) const fn needs_lookup(&self) -> bool {
        matches!(self, Self::Unknown { marker: Some(CommitMarker::TransactionStatus), .. })
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        match self {
            Self::None => None,
            Self::Unknown { failure, .. } => Some(failure.clone()),
        }
    }

    /// Returns the id of the operation and the numbers of the attempts of which one is stored, if its row
    /// exists and there are several.
    pub(super) fn ambiguous(&self) -> Option<(u128, Vec<u32>)> {
        match self {
            Self::Unknown { marker: Some(CommitMarker::Operation { id, .. }), attempts, .. }
                if attempts.len() > 1 =>
            {
                Some((*id, attempts.iter().map(|attempt| attempt.number).collect()))
            }
            Self::None | Self::Unknown { .. } => None,
        }
    }

    /// Forgets the commits, and returns the attempt with this number, or the last one.
    pub(super) fn take(&mut self, number: Option<u32>) -> Option<UnknownAttempt> {
        let Self::Unknown { mut attempts, .. } = std::mem::replace(self, Self::None) else { return None };
        attempts.retain(|attempt| number.is_none_or(|number| attempt.number == number));
        attempts.pop()
    }
}

/// Completes an error message: what an attempt waited for when the deadline passed during its commit.
pub(super) const WAITING_FOR_COMMIT: &str = "for the answer to the commit";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    /// The commits of these attempts, each of which has a marker that collides with those of the others.
    fn unknown(numbers: &[u32], marker: Option<CommitMarker>) -> PriorCommit {
        let mut prior = PriorCommit::None;
        for number in numbers {
            let failure = Failure::new(FailureKind::CommitUnknown, "no answer");
            let attempt = UnknownAttempt { number: *number, hooks: Hooks::default() };
            prior.add(failure, (marker, Vec::new()), attempt);
        }
        prior
    }

    #[test]
    fn the_attempt_that_was_found_is_taken_or_else_the_last_one() {
        let taken = |number| unknown(&[1, 3], None).take(number).map(|attempt| attempt.number);
        assert_eq!(taken(Some(1)), Some(1));
        assert_eq!(taken(Some(3)), Some(3));
        assert_eq!(taken(None), Some(3));
        assert_eq!(PriorCommit::None.take(None).map(|attempt| attempt.number), None);
    }

    #[test]
    fn an_operation_is_ambiguous_if_several_attempts_may_have_stored_it() {
        let marker = Some(CommitMarker::Operation { id: 7, later_attempt: None });
        assert_eq!(unknown(&[1], marker).ambiguous(), None);
        assert_eq!(unknown(&[1, 3], marker).ambiguous(), Some((7, vec![1, 3])));
        assert_eq!(unknown(&[1, 3], None).ambiguous(), None, "the unit finds its own commits");
    }
}
