//! Decides which runs continue after several runs of one unit have deadlocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::{Failure, FailureKind};

/// If this many victims of deadlocks wait to run alone, the other runs of their unit give way.
const MIN_VICTIMS: usize = 2;

/// Counts the victims of deadlocks of one unit that wait to run alone. Shared by all runs of the unit.
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

    /// Returns whether a run that does not run alone has to give way.
    pub(crate) fn is_taken(&self) -> bool {
        self.victims.load(Ordering::Acquire) >= MIN_VICTIMS
    }
}

/// The failure of a transaction that gives way. It has no code, because no server raised it.
///
/// The locks of such a transaction are part of what the other runs deadlock over: with the lock that it
/// waited for, it would continue to the next deadlock, which the server takes its time to detect.
pub(super) fn gave_way() -> Failure {
    let message = "gave way to other runs of the same unit, which had just deadlocked with each other";
    Failure::new(FailureKind::Deadlock, message).retryable(true)
}

/// Returns whether a transaction gave way, and was not ended by the server.
pub(crate) fn has_given_way(failure: &Failure) -> bool {
    failure.kind() == FailureKind::Deadlock && failure.code().is_none()
}
