//! Decides which runs continue after several runs of one unit have deadlocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::{Failure, FailureKind};

/// The number of deadlock victims, waiting to run alone, for which the other runs of their unit give way.
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

    /// Returns whether the runs that do not run alone have to give way.
    pub(crate) fn is_taken(&self) -> bool {
        self.victims.load(Ordering::Acquire) >= MIN_VICTIMS
    }
}

/// Returns the failure of a transaction that gives way. It has no code, because no server raised it.
///
/// The transaction must end because the other runs deadlock over locks that it holds. If it continued, it
/// would run into the next deadlock, which the server takes time to detect.
pub(super) fn gave_way() -> Failure {
    let message = "gave way to other runs of the same unit, which had just deadlocked with each other";
    Failure::new(FailureKind::Deadlock, message).retryable(true)
}

/// Returns whether a transaction gave way, and was not ended by the server.
pub(crate) fn has_given_way(failure: &Failure) -> bool {
    failure.kind() == FailureKind::Deadlock && failure.code().is_none()
}
