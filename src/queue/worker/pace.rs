//! How many jobs a worker claims before it has handlers for them.

use std::time::Duration;

use tokio::time::Instant;

/// The time for which jobs are claimed ahead.
const INTERVAL: Duration = Duration::from_millis(20);

/// The maximum number of jobs that are claimed ahead: what one statement claims.
const MAX_AHEAD: usize = 1_000;

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
    /// would.
    pub(super) fn ahead(&mut self) -> usize {
        let elapsed = self.since.elapsed();
        if elapsed >= INTERVAL {
            let expected = self.ended as f64 * INTERVAL.as_secs_f64() / elapsed.as_secs_f64();
            let expected = expected as usize;
            self.ahead = if expected >= self.handlers { expected.min(MAX_AHEAD) } else { 0 };
            (self.since, self.ended) = (Instant::now(), 0);
        }
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
            pace.ahead()
        };
        assert_eq!(ahead_after(10, 1), 0, "nothing is known yet");
        assert_eq!(ahead_after(90, 19), 100);
        assert_eq!(ahead_after(9, 20), 0, "not every handler has ended");
        assert_eq!(ahead_after(1_000_000, 20), MAX_AHEAD);
        assert_eq!(ahead_after(1_000, 60_000), 0, "the handlers were busy for a minute");
    }
}
