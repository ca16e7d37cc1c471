//! A custom observer, which counts attempts, conflicts and commits for each strategy.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomically::{Event, Observer, RunOutcome, UnitEvent};
use hdrhistogram::Histogram;

/// The longest time that is recorded, in microseconds: ten minutes, far beyond any unit's deadline.
const LONGEST: u64 = 600_000_000;

/// The strategy and the name of the units that are counted together.
pub(crate) type Series = (&'static str, &'static str);

/// The counts of a series.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Units that committed.
    pub(crate) committed: u64,
    /// Units that ended with an error.
    pub(crate) given_up: u64,
    /// Attempts that ended, with or without a commit.
    pub(crate) attempts: u64,
    /// Attempts that failed with a conflict.
    pub(crate) conflicts: u64,
    /// The durations of units that committed, in microseconds, with an error below 1 %.
    took: Histogram<u32>,
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let took = Histogram::new_with_max(LONGEST, 2)?;
        Ok(Self { committed: 0, given_up: 0, attempts: 0, conflicts: 0, took })
    }

    fn add(&mut self, event: UnitEvent<'_>) {
        match event {
            UnitEvent::AttemptFailed { failure, .. } => {
                self.attempts += 1;
                self.conflicts += u64::from(failure.kind().is_conflict());
            }
            UnitEvent::Ended { summary, .. } if summary.outcome == RunOutcome::Committed => {
                self.attempts += 1;
                self.committed += 1;
                self.took.saturating_record(summary.elapsed.as_micros().try_into().unwrap_or(LONGEST));
            }
            UnitEvent::Ended { summary, .. } if summary.outcome != RunOutcome::Dropped => self.given_up += 1,
            _ => {}
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.committed += other.committed;
        self.given_up += other.given_up;
        self.attempts += other.attempts;
        self.conflicts += other.conflicts;
        // Fails only if the other histogram has a larger range.
        let _ = self.took.add(&other.took);
    }

    /// The percentage of attempts that failed with a conflict.
    pub(crate) fn conflict_rate(&self) -> Option<f64> {
        ratio(self.conflicts, self.attempts).map(|rate| rate * 100.0)
    }

    /// The average number of attempts for each commit.
    pub(crate) fn attempts_each(&self) -> Option<f64> {
        ratio(self.attempts, self.committed)
    }

    /// This percentile of the durations of units that committed.
    pub(crate) fn percentile(&self, percent: f64) -> Option<Duration> {
        (!self.took.is_empty()).then(|| Duration::from_micros(self.took.value_at_percentile(percent)))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Counts, until the figures are taken.
#[derive(Debug)]
pub(crate) struct Recorder {
    nothing: Tally,
    tallies: Mutex<BTreeMap<Series, Tally>>,
}

impl Recorder {
    pub(crate) fn new(nothing: Tally) -> Self {
        Self { nothing, tallies: Mutex::default() }
    }

    /// Takes the counts since the last call.
    pub(crate) fn take(&self) -> BTreeMap<Series, Tally> {
        mem::take(&mut *self.tallies())
    }

    fn tallies(&self) -> MutexGuard<'_, BTreeMap<Series, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder {
    /// Runs on the tasks of the units, between their statements, so it only adds.
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { run, event } = event else { return };
        if !matches!(event, UnitEvent::AttemptFailed { .. } | UnitEvent::Ended { .. }) {
            return;
        }
        let mut tallies = self.tallies();
        tallies.entry((run.strategy, run.name)).or_insert_with(|| self.nothing.clone()).add(*event);
    }
}
