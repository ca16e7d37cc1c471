//! An earlier commit of the same run whose outcome is unknown.

use crate::failure::Failure;
use crate::strategy::CommitMarker;
use crate::tx::Hooks;

/// What an attempt has to know about the commits before it.
pub(super) enum PriorCommit {
    /// No commit was sent, or those that were are known not to be stored.
    None,
    /// COMMIT was sent and its outcome is unknown.
    Unknown {
        failure: Failure,
        /// The hooks of that attempt, which run once its outcome is known.
        hooks: Hooks,
        /// What the commit can be found by, unless the unit finds it by itself.
        marker: Option<CommitMarker>,
        /// What the server answered when the transaction was opened: its id, for a status check.
        answered: Vec<i64>,
    },
}

impl PriorCommit {
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

/// What an attempt waited for when the deadline passed during its commit.
pub(super) const WAITING_FOR_COMMIT: &str = "for the answer to the commit";
