//! The queues in which a run waits for other runs before an attempt.

use super::deadline::Timer;
use super::deadlock_queue::{DeadlockPermit, DeadlockQueue};
use super::options::Options;
use crate::failure::{Failure, FailureKind};
use crate::gate::{Gate, GatePermit};
use crate::tx::RightOfWay;

/// The queues in which a run waits for other runs before an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingQueues<'a> {
    pub(super) gate: &'a Gate,
    pub(super) deadlocked: Option<&'a DeadlockQueue>,
}

#[cfg(test)]
impl<'a> WaitingQueues<'a> {
    pub(super) const fn at(gate: &'a Gate) -> Self {
        Self { gate, deadlocked: None }
    }
}

/// The permits of one attempt. Dropping them admits the next runs.
#[derive(Default)]
pub(super) struct Permits {
    /// Boxed, because most runs have none, and the permits are moved several times.
    pub(super) gate: Option<Box<GatePermit>>,
    pub(super) deadlock: Option<DeadlockPermit>,
}

impl Permits {
    /// Returns the count of the deadlock victims that the attempt gives way to.
    pub(super) fn gives_way_to(&self) -> Option<RightOfWay> {
        self.deadlock.as_ref().and_then(DeadlockPermit::gives_way_to)
    }
}

/// Joins the runs of the same unit, behind those that were victims of a deadlock. Returns `None` if the
/// deadline passes first, and `Some(None)` if the run does not take part.
pub(super) async fn deadlock_permit(
    queues: WaitingQueues<'_>,
    options: &Options,
    is_victim: bool,
    timer: &mut Timer,
) -> Option<Option<DeadlockPermit>> {
    // An interceptor itself decides which client continues.
    let takes_part = options.interceptors().is_empty();
    let queue = queues.deadlocked.filter(|_| takes_part);
    let (Some(queue), Some(unit)) = (queue, options.unit()) else { return Some(None) };
    let mut permit = queue.join(unit, is_victim);
    if permit.must_wait() {
        // Boxed, because most runs do not wait.
        timer.at_gate(Box::pin(permit.acquire())).await?;
    }
    Some(Some(permit))
}

/// Returns the cause of a deadline that passed at the gate.
pub(super) fn waiting_at_gate() -> Failure {
    let message = "the unit was still waiting for its turn at the gate";
    Failure::new(FailureKind::Overloaded, message).retryable(true)
}

/// Returns the cause of a deadline that passed behind the victims of deadlocks.
pub(super) fn waiting_behind_victims() -> Failure {
    let message =
        "the unit was still waiting behind runs of the same unit that had deadlocked with each other";
    Failure::new(FailureKind::Overloaded, message).retryable(true)
}
