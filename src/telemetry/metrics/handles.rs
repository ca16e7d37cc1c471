//! The metrics of a unit, of its idempotency keys, of a queue and of a worker.

use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::{Counter, Gauge, Histogram, Label, Recorder};

use super::names::{self, Described};
use crate::events::{JobEvent, KeyOutcome, PurgedTable, Run, RunOutcome, Summary, Times};
use crate::failure::FailureKind;

fn labels(run: &Run) -> Vec<Label> {
    vec![Label::from_static_parts("unit", run.name), Label::from_static_parts("strategy", run.strategy)]
}

/// Registers a counter for each value of a label.
pub(super) fn counters<const N: usize>(
    described: &Described,
    recorder: &dyn Recorder,
    labels: &[Label],
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    values.map(|value| {
        let mut labels = labels.to_vec();
        labels.push(Label::from_static_parts(label, value));
        described.counter(recorder, &labels)
    })
}

/// The metrics of a unit under a strategy.
pub(super) struct UnitHandles {
    in_flight: Gauge,
    pub(super) attempts: Counter,
    pub(super) idle_warnings: Counter,
    outcomes: [Counter; RunOutcome::ALL.len()],
    failures: [Counter; FailureKind::ALL.len()],
    attempts_of_run: Histogram,
    duration: Histogram,
    gate: Histogram,
    pool: Histogram,
    locks: Histogram,
    statements: Histogram,
    idle: Histogram,
    control: Histogram,
    backoff: Histogram,
}

impl UnitHandles {
    pub(super) fn register(recorder: &dyn Recorder, run: &Run) -> Self {
        let labels = labels(run);
        let histogram = |described: &Described| described.histogram(recorder, &labels);
        let outcomes = RunOutcome::ALL.map(RunOutcome::as_str);
        let kinds = FailureKind::ALL.map(FailureKind::as_str);
        Self {
            in_flight: names::IN_FLIGHT.gauge(recorder, &labels),
            attempts: names::ATTEMPTS.counter(recorder, &labels),
            idle_warnings: names::IDLE_WARNINGS.counter(recorder, &labels),
            outcomes: counters(&names::UNITS, recorder, &labels, "outcome", outcomes),
            failures: counters(&names::FAILURES, recorder, &labels, "kind", kinds),
            attempts_of_run: histogram(&names::ATTEMPTS_OF_RUN),
            duration: histogram(&names::DURATION),
            gate: histogram(&names::GATE),
            pool: histogram(&names::POOL),
            locks: histogram(&names::LOCKS),
            statements: histogram(&names::STATEMENTS),
            idle: histogram(&names::IDLE),
            control: histogram(&names::CONTROL),
            backoff: histogram(&names::BACKOFF),
        }
    }

    pub(super) fn started(&self) {
        self.in_flight.increment(1.0);
    }

    pub(super) fn failed(&self, kind: FailureKind) {
        if let Some(failures) = self.failures.get(kind as usize) {
            failures.increment(1);
        }
    }

    pub(super) fn ended(&self, summary: &Summary) {
        let Summary { outcome, attempts, elapsed, times } = summary;
        let Times { gate, pool, locking, statements, idle, control, backoff } = times;
        self.in_flight.decrement(1.0);
        if let Some(outcomes) = self.outcomes.get(*outcome as usize) {
            outcomes.increment(1);
        }
        self.attempts_of_run.record(*attempts);
        for (histogram, time) in [
            (&self.duration, elapsed),
            (&self.gate, gate),
            (&self.pool, pool),
            (&self.locks, locking),
            (&self.statements, statements),
            (&self.idle, idle),
            (&self.control, control),
            (&self.backoff, backoff),
        ] {
            histogram.record(*time);
        }
    }
}

/// The metrics of the idempotency keys of a unit.
pub(super) struct KeyHandles {
    outcomes: [Counter; KeyOutcome::ALL.len()],
}

impl KeyHandles {
    pub(super) fn register(recorder: &dyn Recorder, run: &Run) -> Self {
        let outcomes = KeyOutcome::ALL.map(KeyOutcome::as_str);
        Self { outcomes: counters(&names::KEYS, recorder, &labels(run), "outcome", outcomes) }
    }

    pub(super) fn count(&self, outcome: KeyOutcome) {
        if let Some(outcomes) = self.outcomes.get(outcome as usize) {
            outcomes.increment(1);
        }
    }
}

/// The metrics of a queue.
pub(super) struct QueueHandles {
    running: Gauge,
    ready: Gauge,
    dead: Gauge,
    /// High, normal, low.
    oldest: [Gauge; 3],
    read: Gauge,
    completed: Counter,
    failed: Counter,
    died: Counter,
    released: Counter,
    lost: Counter,
    troubles: Counter,
}

impl QueueHandles {
    pub(super) fn register(recorder: &dyn Recorder, queue: &str) -> Self {
        let labels = [Label::new("queue", queue.to_owned())];
        let outcomes = ["completed", "failed", "dead", "released", "lease_lost"];
        let [completed, failed, died, released, lost] =
            counters(&names::JOBS, recorder, &labels, "outcome", outcomes);
        let oldest = ["high", "normal", "low"].map(|priority| {
            let labels = [labels[0].clone(), Label::from_static_parts("priority", priority)];
            names::OLDEST_JOB.gauge(recorder, &labels)
        });
        Self {
            running: names::RUNNING_JOBS.gauge(recorder, &labels),
            ready: names::READY_JOBS.gauge(recorder, &labels),
            dead: names::DEAD_JOBS.gauge(recorder, &labels),
            oldest,
            read: names::DEPTH_READ.gauge(recorder, &labels),
            completed,
            failed,
            died,
            released,
            lost,
            troubles: names::TROUBLES.counter(recorder, &labels),
        }
    }

    pub(super) fn count(&self, event: &JobEvent<'_>) {
        match event {
            JobEvent::Claimed { .. }
            | JobEvent::PoolTooSmall { .. }
            | JobEvent::Heartbeat { .. }
            | JobEvent::Stopped { .. } => {}
            JobEvent::Started { .. } => self.running.increment(1.0),
            JobEvent::Ended { .. } => self.running.decrement(1.0),
            JobEvent::Completed { .. } => self.completed.increment(1),
            JobEvent::Failed { .. } => self.failed.increment(1),
            JobEvent::Dead { .. } => self.died.increment(1),
            JobEvent::LeaseLost { .. } => self.lost.increment(1),
            JobEvent::Released { .. } => self.released.increment(1),
            JobEvent::Trouble { .. } => self.troubles.increment(1),
            JobEvent::Depth { ready, oldest_by_priority, dead, .. } => {
                self.ready.set(*ready as f64);
                self.dead.set(*dead as f64);
                for (gauge, oldest) in self.oldest.iter().zip(oldest_by_priority) {
                    gauge.set(*oldest);
                }
                self.read.set(now());
            }
        }
    }
}

/// The metrics of a worker.
pub(super) struct WorkerHandles {
    heartbeat: Gauge,
}

impl WorkerHandles {
    pub(super) fn register(recorder: &dyn Recorder, queue: &str, worker: u32) -> Self {
        let labels = [Label::new("queue", queue.to_owned()), Label::new("worker", worker.to_string())];
        Self { heartbeat: names::HEARTBEAT.gauge(recorder, &labels) }
    }

    pub(super) fn beat(&self) {
        self.heartbeat.set(now());
    }

    /// Resets the heartbeat, so that alerts do not report a worker that has shut down.
    pub(super) fn stopped(&self) {
        self.heartbeat.set(0.0);
    }
}

/// The metrics of the purge of a table.
pub(super) struct PurgeHandles {
    rows: Counter,
    time: Gauge,
}

impl PurgeHandles {
    pub(super) fn register(recorder: &dyn Recorder, table: PurgedTable) -> Self {
        let labels = [Label::from_static_parts("table", table.as_str())];
        Self {
            rows: names::PURGED.counter(recorder, &labels),
            time: names::PURGE_TIME.gauge(recorder, &labels),
        }
    }

    pub(super) fn deleted(&self, rows: u64) {
        self.rows.increment(rows);
        self.time.set(now());
    }
}

/// Returns the seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are indexed by the discriminant of the variant.
    #[test]
    fn lists_have_the_order_of_their_variants() {
        assert!(FailureKind::ALL.into_iter().map(|kind| kind as usize).eq(0..FailureKind::ALL.len()));
        assert!(RunOutcome::ALL.into_iter().map(|outcome| outcome as usize).eq(0..RunOutcome::ALL.len()));
        assert!(KeyOutcome::ALL.into_iter().map(|outcome| outcome as usize).eq(0..KeyOutcome::ALL.len()));
    }

    /// A list that ends with the last variant has all variants.
    #[test]
    fn lists_are_complete() {
        assert_eq!(FailureKind::ALL.last(), Some(&FailureKind::Other));
        assert_eq!(RunOutcome::ALL.last(), Some(&RunOutcome::Dropped));
        assert_eq!(KeyOutcome::ALL.last(), Some(&KeyOutcome::Mismatch));
    }
}
