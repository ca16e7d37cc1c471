//! The time for which a claim is held, by the clock of its holder.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Of the time of a lease, the part that is not relied on: clocks do not run equally fast.
const MARGIN: u32 = 10;

/// When the lease of a claim lapses, by a clock that does not jump.
///
/// It counts from before the database was asked for it, so it lapses here before it lapses there.
#[derive(Debug)]
pub(super) struct Lease {
    time: Duration,
    end: Mutex<Instant>,
}

impl Lease {
    /// Of this much time, which the database was asked for then.
    pub(super) fn new(time: Duration, asked: Instant) -> Self {
        Self { time, end: Mutex::new(asked + time) }
    }

    /// The database has extended it, and was asked to do so then.
    pub(super) fn extended(&self, asked: Instant) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        *end = (*end).max(asked + self.time);
    }

    pub(super) fn end(&self) -> Instant {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no other worker can have taken the job over yet.
    pub(super) fn is_certain(&self) -> bool {
        Instant::now() + self.time / MARGIN < self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_certain_for_nine_tenths_of_its_time() {
        let (asked, time) = (Instant::now(), Duration::from_secs(10));
        let lease = Lease::new(time, asked);
        tokio::time::advance(Duration::from_millis(8_990)).await;
        assert!(lease.is_certain());
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(!lease.is_certain() && Instant::now() < lease.end());
        lease.extended(Instant::now());
        assert!(lease.is_certain());
        let end = lease.end();
        lease.extended(asked);
        assert_eq!(lease.end(), end, "an answer that comes late takes nothing away");
    }
}
