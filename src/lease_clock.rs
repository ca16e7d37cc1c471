//! A lease, as its holder knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The last tenth of a lease is not relied on, because the clocks of the database and of this process may run
/// at different speeds.
const MARGIN: u32 = 10;

/// When a lease expires, by a monotonic clock of the holder.
///
/// The lease is measured from before the request was sent, so it expires here before it expires in the
/// database.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    duration: Duration,
    end: Mutex<Instant>,
}

impl LeaseClock {
    /// Starts a lease. `requested` is when the claim was sent to the database.
    pub(crate) fn new(duration: Duration, requested: Instant) -> Self {
        Self { duration, end: Mutex::new(requested + duration) }
    }

    /// Records that the database has extended the lease, by a request sent at `requested`.
    pub(crate) fn extended(&self, requested: Instant) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        *end = (*end).max(requested + self.duration);
    }

    pub(crate) fn end(&self) -> Instant {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns until when no other holder can have taken the lease over.
    pub(crate) fn certain_until(&self) -> Instant {
        self.end() - self.duration / MARGIN
    }

    /// Whether no other holder can have taken the lease over yet.
    pub(crate) fn is_certain(&self) -> bool {
        Instant::now() < self.certain_until()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_certain_for_nine_tenths_of_its_time() {
        let (requested, duration) = (Instant::now(), Duration::from_secs(10));
        let lease = LeaseClock::new(duration, requested);
        tokio::time::advance(Duration::from_millis(8_990)).await;
        assert!(lease.is_certain());
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(!lease.is_certain() && Instant::now() < lease.end());
        lease.extended(Instant::now());
        assert!(lease.is_certain());
        let end = lease.end();
        lease.extended(requested);
        assert_eq!(lease.end(), end, "a late response does not shorten the lease");
    }
}
