//! The report of a run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::faults::Counts;
use crate::ledger::Ledger;
use crate::watch::Watched;
use crate::work::WorkReport;

/// What a run did and found. Its `Display` form is for people.
#[derive(Debug)]
pub struct Report {
    pub(crate) database: &'static str,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) work: WorkReport,
    pub(crate) faults: Counts,
    pub(crate) watched: Watched,
    /// What is wrong; empty if every promise held.
    pub findings: Vec<String>,
}

impl Report {
    /// Returns the number of audited commits.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.ledger.commits()
    }

    /// Returns how many faults occurred.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.faults.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "{}, seed {}: {} commits in {seconds:.0} s ({:.0}/s)",
            self.database,
            self.seed,
            self.commits(),
            self.commits() as f64 / seconds.max(1.0)
        )?;
        for (kind, answers) in self.ledger.summary() {
            writeln!(f, "  {kind:?}: {answers:?}")?;
        }
        let WorkReport { jobs, holders, histories, .. } = &self.work;
        writeln!(
            f,
            "  jobs: {} completed, {} leases lost, empty after {:?}",
            jobs.completed, jobs.leases_lost, jobs.rest
        )?;
        writeln!(
            f,
            "  leases: held {} times, {} commits, {} unknown, {} refused as stale",
            holders.held, holders.stored, holders.unknown, holders.stale
        )?;
        writeln!(f, "  holds: all ended after {:?}", self.work.holds_rest)?;
        writeln!(f, "  histories checked: {histories}")?;
        writeln!(f, "  errors: {:?}", self.ledger.errors())?;
        writeln!(f, "  faults: {:?}", self.faults)?;
        let (first, last) = (self.watched.memory.first(), self.watched.memory.last());
        let mib = |kib: Option<&u64>| kib.copied().unwrap_or_default() / 1024;
        writeln!(
            f,
            "  at most {} sessions; memory {} MiB at first, {} MiB at the end",
            self.watched.sessions,
            mib(first),
            mib(last)
        )?;
        if self.findings.is_empty() {
            return write!(f, "every promise held");
        }
        writeln!(f, "{} promises broken:", self.findings.len())?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}
