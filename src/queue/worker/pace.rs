//! How many jobs a worker claims before it has handlers for them.

use std::time::Duration;

use tokio::time::Instant;

/// The time for which jobs are claimed ahead, and the longest one for which the handlers are measured.
const INTERVAL: Duration = Duration::from_millis(20);

/// The shortest time that is measured.
const MIN_INTERVAL: Duration = Duration::from_millis(2);

/// The minimum number of handlers that end in an interval that is shorter than [`INTERVAL`].
const MIN_ENDED: usize = 32;

/// The maximum number of jobs that are claimed ahead: what one statement claims.
pub(super) const MAX_AHEAD: usize = 1_000;

/// Measures how fast the handlers of a worker end.
///
/// # Why are jobs claimed ahead?
///
/// A claim costs about as much for a thousand jobs as for ten. Handlers that take less time than a claim
/// would spend most of theirs waiting for one. Handlers that take longer gain nothing: for them, no job is
/// claimed before a handler is free, so that other workers can have it.
#[derive(Debug)]
pub(super) struct Pace {
    handlers: usize,
    since: Instant,
    ended: usize,
    ahead: usize,
}

impl Pace {
    pub(super) fn new(handlers: usize) -> Self {
        Self { handlers, since: Instant::now(), ended: 0, ahead: 0 }
    }

    /// Records that handlers have ended.
    pub(super) fn ended(&mut self, handlers: usize) {
        self.ended += handlers;
    }

    /// Returns how many jobs to claim ahead: as many as the handlers end in 20 ms, or none if not all of them
    /// would. This is measured for 20 ms, or less if each handler has ended once on average: a queue that was
    /// empty is claimed ahead soon.
    pub(super) fn measure(&mut self) -> usize {
        let elapsed = self.since.elapsed();
        let has_sample = elapsed >= MIN_INTERVAL && self.ended >= self.handlers.max(MIN_ENDED);
        if has_sample || elapsed >= INTERVAL {
            let expected = self.ended as f64 * INTERVAL.as_secs_f64() / elapsed.as_secs_f64();
            let expected = expected as usize;
            self.ahead = if expected >= self.handlers { expected.min(MAX_AHEAD) } else { 0 };
            (self.since, self.ended) = (Instant::now(), 0);
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jobs_are_claimed_ahead_of_fast_handlers_only() {
        let mut pace = Pace::new(10);
        let mut ahead_after = |ended, millis| {
            pace.ended(ended);
            let elapsed = Duration::from_millis(millis);
            pace.since -= elapsed;
            pace.measure()
        };
        assert_eq!(ahead_after(10, 1), 0, "nothing is known yet");
        assert_eq!(ahead_after(90, 19), 100);
        assert_eq!(ahead_after(9, 20), 0, "not every handler has ended");
        assert_eq!(ahead_after(1_000_000, 20), MAX_AHEAD);
        assert_eq!(ahead_after(1_000, 60_000), 0, "the handlers were busy for a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn fast_handlers_are_recognized_once_each_has_ended() {
        let mut pace = Pace::new(100);
        let mut ahead_after = |ended, millis| {
            pace.ended(ended);
            pace.since -= Duration::from_millis(millis);
            pace.measure()
        };
        assert_eq!(ahead_after(100, 1), 0, "the time is too short");
        assert_eq!(ahead_after(0, 1), MAX_AHEAD);
        assert_eq!(ahead_after(99, 10), MAX_AHEAD, "one handler is still in its first job");
        assert_eq!(ahead_after(1, 10), 100);
        assert_eq!(ahead_after(50, 40), 0);
    }
}
