//! Which statements each unit sends.

use std::collections::{BTreeMap, BTreeSet};

use crate::testing::explore::Report;

/// The sequences of statements that the units were seen to send.
#[derive(Default)]
pub(super) struct UnitPaths {
    seen: BTreeMap<usize, BTreeSet<Vec<String>>>,
}

impl UnitPaths {
    /// Whether the unit was never seen to send more than one statement.
    pub(super) fn is_single_statement(&self, unit: usize) -> bool {
        self.seen.get(&unit).is_some_and(|paths| paths.iter().all(|path| path.len() <= 1))
    }

    /// How many different sequences a unit was seen to send.
    pub(super) fn count(&self, unit: usize) -> usize {
        self.seen.get(&unit).map_or(0, BTreeSet::len)
    }

    pub(super) fn add(&mut self, set: &[usize], report: &Report) {
        for (unit, paths) in set.iter().zip(&report.totals.paths) {
            self.seen.entry(*unit).or_default().extend(paths.iter().cloned());
        }
    }
}
