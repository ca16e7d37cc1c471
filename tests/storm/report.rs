//! The report of a storm, and the guarantees that were violated.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::callers::{self, Calls, Stored};
use crate::clock::Clock;
use crate::jobs::{self, JobReport, Kind, Reported};
use crate::watch::Watched;

/// How many connections a pool may have open beyond its maximum, as documented.
const MAX_BEYOND_POOL: i64 = 8;

/// How long a job may be overdue outside of outages: a poll interval, and a second for a job that was
/// committed behind the claim mark, doubled for a busy machine.
const MAX_OVERDUE: Duration = Duration::from_secs(4);

/// The start is not counted, because connections are being opened.
const WARM_UP: Duration = Duration::from_secs(1);

/// Nor is the time just after an outage.
const RECOVERY: Duration = Duration::from_secs(2);

pub(crate) struct Report<'a> {
    pub(crate) database: &'static str,
    pub(crate) total: Duration,
    pub(crate) clock: &'a Clock,
    pub(crate) calls: Calls,
    pub(crate) stored: Stored,
    pub(crate) jobs: JobReport,
    pub(crate) effects: Vec<i64>,
    pub(crate) watched: Watched,
}

impl Report<'_> {
    /// Commits per second before the first outage, and after the last one.
    fn throughput(&self) -> [f64; 2] {
        let outages = self.clock.outages();
        let first = outages.first().map_or(self.total, |outage| outage.ended.saturating_sub(outage.length()));
        let last = outages.last().map_or(Duration::ZERO, |outage| outage.ended);
        [self.clock.throughput(WARM_UP, first), self.clock.throughput(last + RECOVERY, self.total)]
    }

    /// The violated guarantees, in words.
    pub(crate) fn violated_guarantees(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.check_outages(&mut broken);
        self.check_sessions(&mut broken);
        self.check_calls(&mut broken);
        self.check_jobs(&mut broken);
        let [before, after] = self.throughput();
        // Other programs use the machine as well, so this only detects a service that is down.
        if after < before / 20.0 {
            broken.push(format!("{after:.0} commits/s after the storm, {before:.0}/s before it"));
        }
        broken
    }

    fn check_outages(&self, broken: &mut Vec<String>) {
        for outage in self.clock.outages() {
            let committed = self.clock.committed_during(&outage);
            if committed > 0 {
                broken.push(format!("{committed} calls committed while the server was {}", outage.what));
            }
        }
    }

    fn check_sessions(&self, broken: &mut Vec<String>) {
        let Watched { samples, callers, workers, overdue, overdue_at, .. } = &self.watched;
        if *samples < 50 {
            broken.push(format!("the server was observed only {samples} times: too few to prove anything"));
        }
        for (whose, sessions, connections) in
            [("callers", *callers, callers::CONNECTIONS), ("workers", *workers, jobs::CONNECTIONS)]
        {
            if sessions > i64::from(connections) + MAX_BEYOND_POOL {
                broken.push(format!("{sessions} sessions of {whose} for a pool of {connections}"));
            }
        }
        if *overdue > MAX_OVERDUE {
            broken.push(format!("a job was overdue for {overdue:?}, {overdue_at:?} after the start"));
        }
    }

    fn check_calls(&self, broken: &mut Vec<String>) {
        let stored: BTreeSet<_> = self.stored.ops.iter().copied().collect();
        if self.stored.inexact != 0 {
            broken.push(format!("{} rows differ from the sum of their ledger", self.stored.inexact));
        }
        let lost = self.calls.committed.iter().filter(|op| !stored.contains(op)).count();
        if lost > 0 {
            broken.push(format!("{lost} calls were reported as committed, and are not stored"));
        }
        let failed: Vec<_> = self.calls.failed.iter().filter(|(op, _)| stored.contains(op)).collect();
        if !failed.is_empty() {
            broken
                .push(format!("{} calls were reported as failed, and are stored: {failed:?}", failed.len()));
        }
        let twice = self.calls.failed.values().filter(|kind| **kind == atomically::ErrorKind::Constraint);
        if twice.clone().count() > 0 {
            broken.push(format!(
                "{} calls violated the key of their own operation: they were executed twice",
                twice.count()
            ));
        }
        let known = self.calls.committed.len() + self.calls.unknown.len() + self.calls.gave_up.len();
        if stored.len() > known {
            broken.push(format!("{} operations are stored, and {known} can be", stored.len()));
        }
        if self.calls.committed.is_empty() || self.calls.gave_up.is_empty() {
            broken.push("no call committed, or no caller gave up: the storm proves nothing".to_owned());
        }
    }

    fn check_jobs(&self, broken: &mut Vec<String>) {
        let JobReport { enqueued, unknown, idle, stuck, rest, dead, .. } = &self.jobs;
        let done: BTreeSet<_> = self.effects.iter().copied().collect();
        if done.len() != self.effects.len() {
            broken.push(format!("{} jobs were done twice", self.effects.len() - done.len()));
        }
        let missing = enqueued.iter().filter(|job| Kind::of(**job).has_effect() && !done.contains(job));
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            broken.push(format!("jobs were enqueued and not done: {missing:?}"));
        }
        let strange = done.iter().filter(|job| !enqueued.contains(job) && !unknown.contains(job)).count();
        if strange > 0 {
            broken.push(format!("{strange} jobs were done that were never enqueued"));
        }
        let killed: Vec<_> = dead.iter().filter(|(job, _)| !Kind::of(**job).is_poison()).collect();
        if !killed.is_empty() {
            broken.push(format!("jobs died that are no poison: {killed:?}"));
        }
        let survived: Vec<_> =
            enqueued.iter().filter(|job| Kind::of(**job).is_poison() && !dead.contains_key(job)).collect();
        if !survived.is_empty() {
            broken.push(format!("poison did not die: {survived:?}"));
        }
        if rest.is_none() {
            broken.push("the queue was not emptied".to_owned());
        }
        if !idle.is_empty() || *stuck > 0 {
            broken.push(format!("workers {idle:?} did nothing after the last outage, {stuck} did not end"));
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, total, clock, calls, stored, jobs, watched, .. } = self;
        writeln!(f, "A storm of {} s on {database}", total.as_secs())?;
        writeln!(
            f,
            "  {} callers that give up after 50 to 200 ms, {} rows, a pool of {}",
            callers::CALLERS,
            callers::ROWS,
            callers::CONNECTIONS
        )?;
        let (committed, gave_up, failed) = (calls.committed.len(), calls.gave_up.len(), calls.failed.len());
        let unknown = calls.unknown.len();
        writeln!(
            f,
            "    committed {committed}, gave up {gave_up}, commit unknown {unknown}, failed {failed}"
        )?;
        let unaware = stored.ops.len().saturating_sub(committed);
        writeln!(
            f,
            "    stored {}: {unaware} of them by calls that gave up or do not know",
            stored.ops.len()
        )?;
        for outage in clock.outages() {
            let next = clock.next_commit(outage.ended).unwrap_or(Duration::MAX);
            let (what, ended) = (outage.what, outage.ended);
            let (length, ended) = (outage.length().as_secs_f64(), ended.as_secs_f64());
            writeln!(f, "  {what} for {length:.1} s until {ended:.1} s; the next commit within {next:?}")?;
        }
        let [before, after] = self.throughput();
        writeln!(
            f,
            "  commits per second: {before:.0} before the first outage, {after:.0} after the last one: {:.2}",
            after / before
        )?;
        let part = total.div_f64(15.0);
        let parts = (0..15).map(|n| format!("{:.0}", clock.throughput(part * n, part * (n + 1))));
        let parts = parts.collect::<Vec<_>>().join(" ");
        writeln!(f, "    over the whole storm, in fifteenths: {parts}")?;
        let loads = watched.loads.iter().map(|load| format!("{load:.0}")).collect::<Vec<_>>().join(" ");
        writeln!(f, "    load of the machine meanwhile: {loads}")?;
        for (whose, sessions, connections) in [
            ("callers", watched.callers, callers::CONNECTIONS),
            ("workers", watched.workers, jobs::CONNECTIONS),
        ] {
            writeln!(
                f,
                "  sessions of {whose}: at most {sessions} for a pool of {connections}; the bound is {}",
                i64::from(connections) + MAX_BEYOND_POOL
            )?;
        }
        writeln!(f, "    {} looks at the server", watched.samples)?;
        let sum = |of: fn(&Reported) -> &AtomicU64| {
            jobs.reported.iter().map(|reported| of(reported).load(SeqCst)).sum::<u64>()
        };
        writeln!(
            f,
            "  {} workers, {} jobs enqueued ({} unknown): {} completed, {} attempts failed, {} dead, \
             {} leases lost, {} troubles",
            jobs::WORKERS,
            jobs.enqueued.len(),
            jobs.unknown.len(),
            sum(|of| &of.completed),
            sum(|of| &of.failed),
            sum(|of| &of.dead),
            sum(|of| &of.lost),
            sum(|of| &of.troubles)
        )?;
        writeln!(
            f,
            "    the longest that one was overdue while the server was in order: {:.2} s, at {:.1} s; \
             the bound is {} s",
            watched.overdue.as_secs_f64(),
            watched.overdue_at.as_secs_f64(),
            MAX_OVERDUE.as_secs()
        )?;
        write!(f, "    the queue was empty {:?} after the storm", jobs.rest)
    }
}
