//! What the schedules of an exploration cost.

use std::collections::BTreeSet;

use crate::intercept::StepKind;
use crate::sql_text::{Syntax, normalized};

use super::log::ScheduleLog;

/// What the schedules of an exploration cost, in total.
#[derive(Debug, Clone, Default)]
pub(in crate::testing) struct ScheduleTotals {
    /// The number of schedules, with those that were repeated.
    pub(in crate::testing) runs: usize,
    /// Attempts after the first one of a unit.
    pub(in crate::testing) retries: usize,
    /// Units that ended with an error of the database or the crate.
    pub(in crate::testing) failed: usize,
    /// Steps that waited for another client.
    pub(in crate::testing) waits: usize,
    /// Texts that other clients sent while a step waited for them.
    pub(in crate::testing) waited: usize,
    /// Texts that were sent.
    pub(in crate::testing) round_trips: usize,
    /// For each client, the sequences of statements that its attempts sent.
    pub(in crate::testing) paths: Vec<BTreeSet<Vec<String>>>,
}

impl ScheduleTotals {
    pub(super) fn add(&mut self, log: &ScheduleLog, clients: usize, syntax: Syntax) {
        self.runs += 1;
        self.paths.resize(clients, BTreeSet::new());
        let mut open: Vec<Vec<String>> = vec![Vec::new(); clients];
        self.waited += log.waited();
        for sent in log.sent() {
            self.round_trips += 1;
            self.waits += usize::from(sent.waited.is_some());
            let path = &mut open[sent.client];
            match sent.step.kind {
                StepKind::Begin => {
                    self.retries += usize::from(sent.step.attempt > 1);
                    path.clear();
                }
                StepKind::Statement | StepKind::Control => path.push(normalized(syntax, &sent.step.sql)),
                // An attempt that was rolled back may have stopped anywhere.
                StepKind::Rollback => path.clear(),
                StepKind::Commit => {
                    let path = std::mem::take(path);
                    self.paths[sent.client].insert(path);
                }
            }
        }
    }
}
