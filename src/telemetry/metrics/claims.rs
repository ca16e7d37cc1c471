//! The metrics of a lease, and of the holds on a column.

use ::metrics::{Counter, Gauge, Label, Recorder};

use super::handles::counters;
use super::names;
use crate::events::{HoldEvent, LeaseEvent};

/// The metrics of a lease.
pub(super) struct LeaseHandles {
    held: Gauge,
    acquired: Counter,
    not_renewed: Counter,
    lost: Counter,
    released: Counter,
}

impl LeaseHandles {
    pub(super) fn register(recorder: &dyn Recorder, lease: &str) -> Self {
        let labels = [Label::new("lease", lease.to_owned())];
        let events = ["acquired", "renewal_failed", "lost", "released"];
        let [acquired, not_renewed, lost, released] =
            counters(&names::LEASES, recorder, &labels, "event", events);
        let held = names::LEASES_HELD.gauge(recorder, &labels);
        Self { held, acquired, not_renewed, lost, released }
    }

    pub(super) fn count(&self, event: &LeaseEvent<'_>) {
        match event {
            LeaseEvent::Acquired { .. } => {
                self.acquired.increment(1);
                self.held.increment(1.0);
            }
            LeaseEvent::RenewalFailed { .. } => self.not_renewed.increment(1),
            LeaseEvent::Lost { .. } => {
                self.lost.increment(1);
                self.held.decrement(1.0);
            }
            LeaseEvent::Released { .. } => {
                self.released.increment(1);
                self.held.decrement(1.0);
            }
        }
    }
}

/// The metrics of the holds on a column.
pub(super) struct HoldHandles {
    held: Counter,
    refused: Counter,
    confirmed: Counter,
    too_late: Counter,
    released: Counter,
    expired: Counter,
    sweep_failed: Counter,
}

impl HoldHandles {
    pub(super) fn register(recorder: &dyn Recorder, column: &str) -> Self {
        let labels = [Label::new("column", column.to_owned())];
        let events = ["held", "refused", "confirmed", "too_late", "released", "expired", "sweep_failed"];
        let [held, refused, confirmed, too_late, released, expired, sweep_failed] =
            counters(&names::HOLDS, recorder, &labels, "event", events);
        Self { held, refused, confirmed, too_late, released, expired, sweep_failed }
    }

    pub(super) fn count(&self, event: &HoldEvent<'_>) {
        let (counter, count) = match event {
            HoldEvent::Held { holds } => (&self.held, *holds),
            HoldEvent::Refused { calls } => (&self.refused, *calls),
            HoldEvent::Confirmed { .. } => (&self.confirmed, 1),
            HoldEvent::TooLate { .. } => (&self.too_late, 1),
            HoldEvent::Released { .. } => (&self.released, 1),
            HoldEvent::Expired { holds } => (&self.expired, *holds),
            HoldEvent::SweepFailed { .. } => (&self.sweep_failed, 1),
        };
        counter.increment(count as u64);
    }
}
