//! Delays between attempts, as iterators. The retry loop does the sleeping.

use std::time::Duration;

use rand::{Rng, RngExt};

/// The delays between attempts: exponential backoff with full jitter.
///
/// Each delay is drawn uniformly between zero and a ceiling that grows from retry to retry;
/// [`equal_jitter`](Self::equal_jitter) draws from the upper half of that range.
///
/// # Default
///
/// - first ceiling: 2 ms
/// - factor: 2
/// - highest ceiling: 250 ms
///
/// # Why full jitter, from the first retry on?
///
/// Two transactions that conflict run at the same time. After a fixed delay, or a fixed delay plus some
/// jitter, they run at the same time again, and conflict again. Drawing from the whole range spreads them out
/// at once, and takes the least total work for a given load
/// ([measurements](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)).
///
/// # Why milliseconds?
///
/// A conflict over a row ends when the other transaction ends. That takes milliseconds, unlike an outage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    factor: u32,
    max: Duration,
    equal_jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(2),
            factor: 2,
            max: Duration::from_millis(250),
            equal_jitter: false,
        }
    }
}

impl Backoff {
    /// Creates a backoff whose ceiling starts at `first`, doubles with each retry and stops growing at `max`.
    /// A `first` above `max` is treated as `max`.
    #[must_use]
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, factor: 2, max, equal_jitter: false }
    }

    /// Creates a backoff that retries immediately, without delays.
    #[must_use]
    pub const fn none() -> Self {
        Self { first: Duration::ZERO, factor: 1, max: Duration::ZERO, equal_jitter: false }
    }

    /// Sets the factor by which the ceiling grows from one retry to the next. A factor of 1 keeps it
    /// constant; 0 is treated as 1.
    #[must_use]
    pub const fn factor(mut self, factor: u32) -> Self {
        self.factor = if factor == 0 { 1 } else { factor };
        self
    }

    /// Draws each delay from the upper half of its range: between half of the ceiling and the ceiling.
    ///
    /// Use it where the delays have to outlast an outage. Full jitter may draw several short delays in a row,
    /// and so use up attempts that were meant to be hours apart.
    #[must_use]
    pub const fn equal_jitter(mut self) -> Self {
        self.equal_jitter = true;
        self
    }

    /// Returns the ceilings of the delays, one for each retry, without end.
    pub fn ceilings(self) -> impl Iterator<Item = Duration> + Send {
        let Self { first, factor, max, equal_jitter: _ } = self;
        std::iter::successors(Some(first.min(max)), move |ceiling| {
            Some(ceiling.saturating_mul(factor).min(max))
        })
    }

    /// Returns the delays, drawn from `rng`, without end.
    pub fn delays<R: Rng + Send>(self, mut rng: R) -> impl Iterator<Item = Duration> + Send {
        self.ceilings().map(move |ceiling| {
            let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
            let floor = if self.equal_jitter { nanos / 2 } else { 0 };
            Duration::from_nanos(rng.random_range(floor..=nanos))
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn ceilings_double_up_to_the_highest() {
        let millis: Vec<_> = Backoff::default().ceilings().take(9).map(|d| d.as_millis()).collect();
        assert_eq!(millis, [2, 4, 8, 16, 32, 64, 128, 250, 250]);
    }

    #[test]
    fn delays_fill_the_whole_range_and_never_leave_it() {
        let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_millis(100));
        let delays: Vec<_> = backoff.delays(StdRng::seed_from_u64(7)).take(1000).collect();
        assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(100)));
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(5)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(95)));
    }

    #[test]
    fn equal_jitter_keeps_to_the_upper_half() {
        let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_millis(100));
        let delays: Vec<_> = backoff.equal_jitter().delays(StdRng::seed_from_u64(7)).take(1000).collect();
        let half = Duration::from_millis(50)..=Duration::from_millis(100);
        assert!(delays.iter().all(|delay| half.contains(delay)));
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(55)));
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let draw = || Backoff::default().delays(StdRng::seed_from_u64(1)).take(20).collect::<Vec<_>>();
        assert_eq!(draw(), draw());
    }

    #[test]
    fn no_ceiling_overflows() {
        let backoff = Backoff::exponential(Duration::MAX, Duration::MAX).factor(u32::MAX);
        assert_eq!(backoff.ceilings().nth(100), Some(Duration::MAX));
        assert!(backoff.delays(StdRng::seed_from_u64(1)).nth(3).is_some());
    }
}
