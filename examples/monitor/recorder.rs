//! An observer of one's own: counts what happens to units of work, for each strategy.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomically::{Event, Observer, RunOutcome, UnitEvent};
use hdrhistogram::Histogram;

/// Ten minutes are far more than a unit is given.
const LONGEST: u64 = 600_000_000;

/// What belongs together: the units of one name that ran under one strategy.
pub(crate) type Series = (&'static str, &'static str);

/// What happened to the units of a series.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Units that are stored.
    pub(crate) committed: u64,
    /// Units that are not.
    pub(crate) given_up: u64,
    /// Attempts that are over, those that failed included.
    pub(crate) attempts: u64,
    /// Attempts that met a conflict.
    pub(crate) conflicts: u64,
    /// How long units took that are stored, in microseconds and with an error below 1 %.
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
        // Fails only where the other one has room for more.
        let _ = self.took.add(&other.took);
    }

    /// The share of the attempts that were lost to conflicts, in percent.
    pub(crate) fn conflict_rate(&self) -> Option<f64> {
        ratio(self.conflicts, self.attempts).map(|rate| rate * 100.0)
    }

    /// How many attempts there were for each unit that is stored.
    pub(crate) fn attempts_each(&self) -> Option<f64> {
        ratio(self.attempts, self.committed)
    }

    /// So many percent of the units that are stored took no longer.
    pub(crate) fn percentile(&self, percent: f64) -> Option<Duration> {
        (!self.took.is_empty()).then(|| Duration::from_micros(self.took.value_at_percentile(percent)))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Counts until somebody comes to take the figures away.
#[derive(Debug)]
pub(crate) struct Recorder {
    nothing: Tally,
    tallies: Mutex<BTreeMap<Series, Tally>>,
}

impl Recorder {
    pub(crate) fn new(nothing: Tally) -> Self {
        Self { nothing, tallies: Mutex::default() }
    }

    /// What happened since the last time.
    pub(crate) fn take(&self) -> BTreeMap<Series, Tally> {
        mem::take(&mut *self.tallies())
    }

    fn tallies(&self) -> MutexGuard<'_, BTreeMap<Series, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder {
    /// Called on the tasks that run the units, between their statements: nothing here takes longer than the sum.
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { run, event } = event else { return };
        if !matches!(event, UnitEvent::AttemptFailed { .. } | UnitEvent::Ended { .. }) {
            return;
        }
        let mut tallies = self.tallies();
        tallies.entry((run.strategy, run.name)).or_insert_with(|| self.nothing.clone()).add(*event);
    }
}
