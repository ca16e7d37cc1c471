//! Where runs wait for each other before an attempt.

use super::deadline::Timer;
use super::deadlock_line::{DeadlockLine, Turn};
use super::options::Options;
use crate::failure::{Failure, FailureKind};
use crate::gate::{Gate, GatePermit};
use crate::tx::RightOfWay;

/// Where runs wait for each other before an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) gate: &'a Gate,
    pub(super) deadlocked: Option<&'a DeadlockLine>,
}

#[cfg(test)]
impl<'a> Lines<'a> {
    pub(super) const fn at(gate: &'a Gate) -> Self {
        Self { gate, deadlocked: None }
    }
}

/// The places that an attempt has in these lines; dropping it lets the next ones go.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) permit: Option<GatePermit>,
    pub(super) behind_victims: Option<Turn>,
}

impl Standing {
    /// To whom the attempt gives way.
    pub(super) fn gives_way_to(&self) -> Option<RightOfWay> {
        self.behind_victims.as_ref().and_then(Turn::gives_way_to)
    }
}

/// Joins those who run the same unit, behind the victims of deadlocks among them. `None` if the deadline
/// passes first.
pub(super) async fn behind_victims(
    lines: Lines<'_>,
    options: &Options,
    is_victim: bool,
    timer: &mut Timer,
) -> Option<Option<Turn>> {
    // An interceptor decides by itself who goes on when.
    let is_wanted = options.interceptors().is_empty();
    let line = lines.deadlocked.filter(|_| is_wanted);
    let (Some(line), Some(unit)) = (line, options.unit()) else { return Some(None) };
    let mut turn = line.join(unit, is_victim);
    if turn.is_to_come() {
        timer.at_gate(turn.come()).await?;
    }
    Some(Some(turn))
}

pub(super) fn behind_others() -> Failure {
    let message =
        "the unit was still waiting behind runs of the same unit that had deadlocked with each other";
    Failure::new(FailureKind::Overloaded, message).retryable(true)
}
