//! The check of a history.

use super::dependencies::Graph;
use super::order::Order;
use super::report::CheckReport;
use super::transaction::{DuplicateValue, History, TransactionOutcome};
use super::versions::Versions;
use super::{cycles, reads};

impl History {
    /// Finds the anomalies that the data show.
    ///
    /// The duration is proportional to the length of all reads, plus a search within each group of
    /// transactions that depend on each other in cycles. A history without anomalies has no such group.
    ///
    /// # Errors
    ///
    /// [`DuplicateValue`] if a value was appended twice to one list.
    pub fn check(&self) -> Result<CheckReport, DuplicateValue> {
        self.check_in_order(Order::Data)
    }

    /// Finds the anomalies that the data show, given the order of sessions or of real time.
    ///
    /// # Errors
    ///
    /// [`DuplicateValue`] if a value was appended twice to one list.
    pub fn check_in_order(&self, order: Order) -> Result<CheckReport, DuplicateValue> {
        let versions = Versions::recover(self)?;
        let mut anomalies = reads::anomalies(&versions);
        let (cycles, undecided) = cycles::anomalies(&versions, &Graph::new(&versions, order));
        anomalies.extend(cycles);
        anomalies.sort_by_key(|anomaly| (anomaly.kind(), anomaly.cycle().len()));
        let [committed, aborted, unknown] =
            [TransactionOutcome::Committed, TransactionOutcome::Aborted, TransactionOutcome::Unknown]
                .map(|outcome| self.count(outcome));
        Ok(CheckReport { anomalies, undecided, committed, aborted, unknown })
    }
}
