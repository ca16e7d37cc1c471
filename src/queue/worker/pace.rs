//! How many jobs a worker claims before it has handlers for them.

use std::time::Duration;

use tokio::time::Instant;

use super::handler_slots::HandlerSlots;

/// The time for which jobs are claimed ahead, and the longest one for which the handlers are measured.
const INTERVAL: Duration = Duration::from_millis(20);

/// The minimum number of handlers that end in an interval that is shorter than [`INTERVAL`].
const MIN_ENDED: usize = 32;

/// The maximum number of jobs that are claimed ahead: what one statement claims.
pub(super) const MAX_AHEAD: usize = 1_000;

/// Measures how fast the handlers of a worker end.
///
/// # Why are jobs claimed ahead?
///
/// A claim costs about as much for a hundred jobs as for ten. Handlers that take less time than a claim would
/// spend most of theirs waiting for one. Handlers that take longer gain nothing: for them, no job is claimed
/// before a handler is free, so that other workers can have it.
///
/// The handlers' own times count too, because slow handlers that were started together also end together.
#[derive(Debug)]
pub(super) struct Pace {
    handlers: usize,
    since: Instant,
    ahead: usize,
}

impl Pace {
    pub(super) fn new(handlers: usize) -> Self {
        Self { handlers, since: Instant::now(), ahead: 0 }
    }

    /// Starts anew: what was measured before a time without jobs may no longer be true.
    pub(super) fn restart(&mut self, slots: &HandlerSlots) {
        slots.forget_ended();
        (self.since, self.ahead) = (Instant::now(), 0);
    }

    /// Returns how many jobs to claim ahead: as many as the handlers end in 20 ms, or none if not all of them
    /// would, or if they take longer on average. This is measured for 20 ms, or less if each handler has
    /// ended once on average: a queue that was empty is claimed ahead soon.
    pub(super) fn measure(&mut self, slots: &HandlerSlots) -> usize {
        let (elapsed, (ended, total)) = (self.since.elapsed(), slots.ended());
        let has_sample = ended >= self.handlers.max(MIN_ENDED) as u64;
        if has_sample || elapsed >= INTERVAL {
            let expected = ended as f64 * INTERVAL.as_secs_f64() / elapsed.as_secs_f64();
            let expected = expected as usize;
            let are_fast = total.as_secs_f64() <= ended as f64 * INTERVAL.as_secs_f64();
            self.ahead = if are_fast && expected >= self.handlers { expected.min(MAX_AHEAD) } else { 0 };
            slots.forget_ended();
            self.since = Instant::now();
        }
        self.ahead
    }

    /// Returns what was measured last.
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Runs this many handlers one after the other, as many of them at the same time as there are slots.
    async fn run_handlers(slots: &HandlerSlots, count: usize, time: Duration) {
        let mut left = count;
        while left > 0 {
            let running: Vec<_> = (0..left).map_while(|_| slots.take()).collect();
            advance(time).await;
            left -= running.len();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_are_claimed_ahead_of_fast_handlers_only() {
        let (slots, mut pace) = (HandlerSlots::new(10), Pace::new(10));
        run_handlers(&slots, 10, Duration::from_millis(1)).await;
        assert_eq!(pace.measure(&slots), 0, "nothing is known yet");
        run_handlers(&slots, 90, Duration::from_millis(2)).await;
        advance(Duration::from_millis(1)).await;
        assert_eq!(pace.measure(&slots), 100, "they ended in 20 ms");
        run_handlers(&slots, 9, Duration::from_millis(20)).await;
        assert_eq!(pace.measure(&slots), 0, "not every handler has ended");
        run_handlers(&slots, 40, Duration::ZERO).await;
        assert_eq!(pace.measure(&slots), MAX_AHEAD);
        run_handlers(&slots, 10, Duration::from_secs(60)).await;
        assert_eq!(pace.measure(&slots), 0, "the handlers were busy for a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn fast_handlers_are_recognized_once_each_has_ended() {
        let (slots, mut pace) = (HandlerSlots::new(100), Pace::new(100));
        run_handlers(&slots, 99, Duration::from_millis(1)).await;
        assert_eq!(pace.measure(&slots), 0, "one handler is still in its first job");
        run_handlers(&slots, 1, Duration::from_millis(1)).await;
        assert_eq!(pace.measure(&slots), MAX_AHEAD);
        run_handlers(&slots, 100, Duration::from_millis(10)).await;
        assert_eq!(pace.measure(&slots), 200);
        pace.restart(&slots);
        assert_eq!(pace.measure(&slots), 0, "the next handlers may be slow");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handlers_that_end_together_are_not_fast() {
        let (slots, mut pace) = (HandlerSlots::new(100), Pace::new(100));
        let running: Vec<_> = (0..100).map_while(|_| slots.take()).collect();
        advance(Duration::from_secs(1)).await;
        assert_eq!(pace.measure(&slots), 0);
        drop(running);
        assert_eq!(pace.measure(&slots), 0, "100 have ended in no time, but took a second each");
    }
}
