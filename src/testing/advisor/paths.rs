//! Which statements each unit sends.

use std::collections::BTreeMap;

use crate::testing::explore::Report;

/// How many statements the units were seen to send.
#[derive(Default)]
pub(super) struct UnitPaths(BTreeMap<usize, SeenPaths>);

#[derive(Default)]
struct SeenPaths {
    max_statements: usize,
    /// The largest number of different sequences in one exploration. Another strategy changes the texts.
    max_sequences: usize,
}

impl UnitPaths {
    /// Whether the unit was never seen to send more than one statement.
    pub(super) fn is_single_statement(&self, unit: usize) -> bool {
        self.0.get(&unit).is_some_and(|seen| seen.max_statements <= 1)
    }

    /// How many different sequences of statements a unit was seen to send.
    pub(super) fn count(&self, unit: usize) -> usize {
        self.0.get(&unit).map_or(0, |seen| seen.max_sequences)
    }

    pub(super) fn add(&mut self, set: &[usize], report: &Report) {
        for (unit, paths) in set.iter().zip(&report.totals.paths) {
            let seen = self.0.entry(*unit).or_default();
            let longest = paths.iter().map(Vec::len).max().unwrap_or_default();
            seen.max_statements = seen.max_statements.max(longest);
            seen.max_sequences = seen.max_sequences.max(paths.len());
        }
    }
}
