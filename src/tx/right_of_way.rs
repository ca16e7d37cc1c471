//! Who goes on when units have deadlocked with each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::{Failure, FailureKind};

/// With so many victims of deadlocks waiting for their turn, the other runs of their unit give way.
const CROWD: usize = 2;

/// The victims of deadlocks in one unit that wait for their turn, as its other runs see them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RightOfWay {
    victims: Arc<AtomicUsize>,
}

impl RightOfWay {
    pub(crate) fn add_victim(&self) {
        self.victims.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove_victim(&self) {
        self.victims.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a run that has no turn must not go on.
    pub(crate) fn is_taken(&self) -> bool {
        self.victims.load(Ordering::Acquire) >= CROWD
    }
}

/// The failure of a transaction that gives way. No server raised it, so it has no code.
///
/// Its locks are part of what the others deadlock over: when it gets the one that it waited for, and goes on
/// to the next, it is in the next deadlock, and the server takes its time to find that.
pub(super) fn gave_way() -> Failure {
    let message = "gave way to other runs of the same unit, which had just deadlocked with each other";
    Failure::new(FailureKind::Deadlock, message).retryable(true)
}

/// Whether a transaction gave way, in contrast to one that the server has ended.
pub(crate) fn has_given_way(failure: &Failure) -> bool {
    failure.kind() == FailureKind::Deadlock && failure.code().is_none()
}
