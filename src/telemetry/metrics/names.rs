//! The names, units and descriptions of the metrics.

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};

/// The name, unit and description of a metric.
pub(super) struct Described {
    pub(super) name: &'static str,
    unit: Unit,
    help: &'static str,
}

impl Described {
    const fn new(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, unit, help }
    }

    fn key(&self, labels: &[Label]) -> Key {
        Key::from_parts(self.name, labels.to_vec())
    }

    pub(super) fn counter(&self, recorder: &dyn Recorder, labels: &[Label]) -> Counter {
        let counter = recorder.register_counter(&self.key(labels), &METADATA);
        // Some exporters do not show a counter that was never incremented.
        counter.increment(0);
        counter
    }

    pub(super) fn gauge(&self, recorder: &dyn Recorder, labels: &[Label]) -> Gauge {
        recorder.register_gauge(&self.key(labels), &METADATA)
    }

    pub(super) fn histogram(&self, recorder: &dyn Recorder, labels: &[Label]) -> Histogram {
        recorder.register_histogram(&self.key(labels), &METADATA)
    }
}

const METADATA: Metadata<'_> = Metadata::new("atomically", Level::INFO, Some("atomically"));

pub(super) const UNITS: Described =
    Described::new("atomically_units_total", Unit::Count, "Runs of units of work, by outcome.");
pub(super) const ATTEMPTS: Described =
    Described::new("atomically_attempts_total", Unit::Count, "Attempts of units of work that were started.");
pub(super) const FAILURES: Described = Described::new(
    "atomically_failures_total",
    Unit::Count,
    "Attempts of units of work that failed, by kind of failure.",
);
pub(super) const IDLE_WARNINGS: Described = Described::new(
    "atomically_idle_warnings_total",
    Unit::Count,
    "Times that a unit of work left its transaction idle for longer than its limit.",
);
pub(super) const KEYS: Described = Described::new(
    "atomically_idempotency_outcomes_total",
    Unit::Count,
    "Requests with an idempotency key, by outcome.",
);
pub(super) const JOBS: Described = Described::new(
    "atomically_queue_jobs_total",
    Unit::Count,
    "Attempts of jobs that have ended, by outcome.",
);
pub(super) const TROUBLES: Described = Described::new(
    "atomically_queue_troubles_total",
    Unit::Count,
    "Database errors that interrupted a worker.",
);

pub(super) const LEASES: Described = Described::new(
    "atomically_lease_events_total",
    Unit::Count,
    "Leases that this process has acquired, could not renew, has lost or has released.",
);
pub(super) const HOLDS: Described = Described::new(
    "atomically_hold_events_total",
    Unit::Count,
    "Holds that were taken, refused, confirmed, confirmed too late, released or given back as expired.",
);

pub(super) const PURGED: Described = Described::new(
    "atomically_purged_rows_total",
    Unit::Count,
    "Expired rows that were deleted from a table of the crate.",
);

pub(super) const IN_FLIGHT: Described =
    Described::new("atomically_units_in_flight", Unit::Count, "Runs of units of work in progress.");
pub(super) const RUNNING_JOBS: Described = Described::new(
    "atomically_queue_running_jobs",
    Unit::Count,
    "Jobs whose handlers are running in this process.",
);
pub(super) const READY_JOBS: Described =
    Described::new("atomically_queue_ready_jobs", Unit::Count, "Jobs that can be claimed now.");
pub(super) const DEAD_JOBS: Described =
    Described::new("atomically_queue_dead_jobs", Unit::Count, "Dead jobs, which are not retried.");
pub(super) const OLDEST_JOB: Described = Described::new(
    "atomically_queue_oldest_job_age_seconds",
    Unit::Seconds,
    "Age of the oldest claimable job of a priority, in seconds.",
);
pub(super) const DEPTH_READ: Described = Described::new(
    "atomically_queue_depth_timestamp_seconds",
    Unit::Seconds,
    "Time of the last count of a queue's jobs, in seconds since 1970.",
);
pub(super) const HEARTBEAT: Described = Described::new(
    "atomically_queue_worker_heartbeat_timestamp_seconds",
    Unit::Seconds,
    "Time of a worker's last heartbeat, in seconds since 1970; 0 after an orderly shutdown.",
);

pub(super) const LEASES_HELD: Described =
    Described::new("atomically_leases_held", Unit::Count, "Leases that this process holds.");

pub(super) const PURGE_TIME: Described = Described::new(
    "atomically_purge_timestamp_seconds",
    Unit::Seconds,
    "Time of the last purge of a table that has succeeded, in seconds since 1970.",
);

pub(super) const ATTEMPTS_OF_RUN: Described =
    Described::new("atomically_unit_attempts", Unit::Count, "Attempts per run.");
pub(super) const DURATION: Described =
    Described::new("atomically_unit_duration_seconds", Unit::Seconds, "Duration of a run.");
pub(super) const GATE: Described =
    Described::new("atomically_gate_wait_seconds", Unit::Seconds, "Time that a run waited at its gate.");
pub(super) const POOL: Described = Described::new(
    "atomically_pool_wait_seconds",
    Unit::Seconds,
    "Time that a run waited for connections of the pool.",
);
pub(super) const LOCKS: Described = Described::new(
    "atomically_lock_wait_seconds",
    Unit::Seconds,
    "Time that a run spent in statements that acquire locks: an upper bound for its lock waits.",
);
pub(super) const STATEMENTS: Described =
    Described::new("atomically_statement_seconds", Unit::Seconds, "Time that a run spent in its statements.");
pub(super) const IDLE: Described = Described::new(
    "atomically_idle_in_transaction_seconds",
    Unit::Seconds,
    "Time that a run left its transaction open and idle.",
);
pub(super) const CONTROL: Described = Described::new(
    "atomically_control_seconds",
    Unit::Seconds,
    "Time that a run spent opening, committing and rolling back transactions.",
);
pub(super) const BACKOFF: Described = Described::new(
    "atomically_backoff_seconds",
    Unit::Seconds,
    "Time that a run waited between its attempts.",
);

const COUNTERS: [&Described; 10] =
    [&UNITS, &ATTEMPTS, &FAILURES, &IDLE_WARNINGS, &KEYS, &JOBS, &TROUBLES, &LEASES, &HOLDS, &PURGED];

const GAUGES: [&Described; 9] = [
    &IN_FLIGHT,
    &RUNNING_JOBS,
    &READY_JOBS,
    &DEAD_JOBS,
    &OLDEST_JOB,
    &DEPTH_READ,
    &HEARTBEAT,
    &LEASES_HELD,
    &PURGE_TIME,
];

/// The histograms, with suitable bucket bounds.
pub(super) const HISTOGRAMS: [(&Described, &[f64]); 9] = [
    (&ATTEMPTS_OF_RUN, &[1.0, 2.0, 3.0, 5.0, 10.0, 20.0]),
    (&DURATION, &SECONDS),
    (&GATE, &PARTS),
    (&POOL, &PARTS),
    (&LOCKS, &PARTS),
    (&STATEMENTS, &PARTS),
    (&IDLE, &PARTS),
    (&CONTROL, &PARTS),
    (&BACKOFF, &PARTS),
];

const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// For the parts of the duration, of which only sums are used.
const PARTS: [f64; 1] = [1.0];

/// Passes the units and descriptions of all metrics to a recorder.
pub(super) fn describe(recorder: &dyn Recorder) {
    for Described { name, unit, help } in COUNTERS {
        recorder.describe_counter((*name).into(), Some(*unit), (*help).into());
    }
    for Described { name, unit, help } in GAUGES {
        recorder.describe_gauge((*name).into(), Some(*unit), (*help).into());
    }
    for (Described { name, unit, help }, _) in HISTOGRAMS {
        recorder.describe_histogram((*name).into(), Some(*unit), (*help).into());
    }
}
