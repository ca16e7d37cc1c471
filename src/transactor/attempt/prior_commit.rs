//! An earlier commit of the same run whose outcome is unknown.

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
        /// The hooks of that attempt, which run once its outcome is known.
        hooks: Hooks,
        /// Identifies the commit for a lookup; `None` if the unit detects its own commits.
        marker: Option<CommitMarker>,
        /// The integers that the opening of the transaction returned: its id, for a status check.
        answered: Vec<i64>,
    },
}

impl PriorCommit {
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

    /// Forgets the commit, and returns its hooks.
    pub(super) fn take_hooks(&mut self) -> Option<Hooks> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::Unknown { hooks, .. } => Some(hooks),
        }
    }
}

/// Completes an error message: what an attempt waited for when the deadline passed during its commit.
pub(super) const WAITING_FOR_COMMIT: &str = "for the answer to the commit";
