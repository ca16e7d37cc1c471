//! Anomalies that single reads show, without a cycle.

use std::collections::{BTreeMap, HashSet};

use super::anomaly::{Anomaly, AnomalyKind};
use super::transaction::{List, Operation, TransactionOutcome};
use super::versions::{Observation, Versions};

/// Collects anomalies, one of each kind for each value or list.
struct Collector<'v, 'h> {
    versions: &'v Versions<'h>,
    known: HashSet<(AnomalyKind, i64, Option<i64>)>,
    anomalies: Vec<Anomaly>,
}

/// Finds the anomalies that the reads of a history show without a cycle.
pub(super) fn anomalies(versions: &Versions<'_>) -> Vec<Anomaly> {
    let mut collector = Collector { versions, known: HashSet::new(), anomalies: Vec::new() };
    for read in versions.observations() {
        collector.values(read);
        collector.intermediate_read(read);
        collector.incompatible_order(read);
    }
    collector.dirty_updates();
    collector.lost_appends();
    collector.internal_inconsistencies();
    collector.lost_updates();
    collector.anomalies
}

impl Collector<'_, '_> {
    fn add(
        &mut self,
        kind: AnomalyKind,
        key: i64,
        value: Option<i64>,
        transactions: impl IntoIterator<Item = usize>,
        evidence: String,
    ) {
        if self.known.insert((kind, key, value)) {
            self.anomalies.push(anomaly(self.versions, kind, evidence, transactions));
        }
    }

    /// Checks that each value was appended once, by a transaction that was not rolled back.
    fn values(&mut self, read: Observation<'_>) {
        let Observation { key, reader, list } = read;
        let mut values = HashSet::new();
        for &value in list {
            let appender = self.versions.appender(key, value);
            let involved = reader.into_iter().chain(appender);
            if !values.insert(value) {
                let evidence = format!("{} {value} twice: {}", describe(read), List(list));
                self.add(AnomalyKind::DuplicateAppend, key, Some(value), involved.clone(), evidence);
            }
            let Some(appender) = appender else {
                let evidence = format!("{} {value}, which was never appended", describe(read));
                self.add(AnomalyKind::GarbageRead, key, Some(value), involved, evidence);
                continue;
            };
            if self.versions.history.transactions[appender].outcome == TransactionOutcome::Aborted {
                let evidence =
                    format!("{} {value} of T{}, which was rolled back", describe(read), appender + 1);
                self.add(AnomalyKind::AbortedRead, key, Some(value), involved, evidence);
            }
        }
    }

    /// Checks that a read ends with the last append of a transaction to the list.
    fn intermediate_read(&mut self, read: Observation<'_>) {
        let (Some(reader), Some(&value)) = (read.reader, self.versions.without_own(read).last()) else {
            return;
        };
        let Some(appender) = self.versions.appender(read.key, value) else { return };
        if appender != reader && self.versions.is_intermediate(read.key, value) {
            let evidence =
                format!("{} {value} as the last, and T{} appended more to it", describe(read), appender + 1);
            self.add(AnomalyKind::IntermediateRead, read.key, Some(value), [reader, appender], evidence);
        }
    }

    fn incompatible_order(&mut self, read: Observation<'_>) {
        let Some(longest) = self.versions.longest_of(read.key) else { return };
        if !longest.list.starts_with(read.list) {
            let evidence = format!(
                "{} {}, {} {}",
                describe(read),
                List(read.list),
                describe(longest),
                List(longest.list)
            );
            let involved = read.reader.into_iter().chain(longest.reader);
            self.add(AnomalyKind::IncompatibleOrder, read.key, None, involved, evidence);
        }
    }

    fn dirty_updates(&mut self) {
        for Observation { key, list, .. } in self.versions.longest() {
            let mut aborted = None;
            for &value in list {
                let Some(appender) = self.versions.appender(key, value) else { continue };
                if self.versions.history.transactions[appender].outcome == TransactionOutcome::Aborted {
                    aborted = Some((appender, value));
                } else if let Some((before, dirty)) = aborted.take() {
                    let evidence = format!(
                        "T{} appended {value} to key {key} after {dirty}, which T{} rolled back",
                        appender + 1,
                        before + 1
                    );
                    self.add(AnomalyKind::DirtyUpdate, key, Some(dirty), [before, appender], evidence);
                }
            }
        }
    }

    fn lost_appends(&mut self) {
        for (transaction, key, value) in self.versions.committed_appends() {
            if let Some(last) = self.versions.history.last.get(&key)
                && !self.versions.is_ordered(key, value)
            {
                let evidence = format!(
                    "T{} appended {value} to key {key}, which held {} in the end",
                    transaction + 1,
                    List(last)
                );
                self.add(AnomalyKind::LostAppend, key, Some(value), [transaction], evidence);
            }
        }
    }

    /// Checks that each transaction reads its own earlier appends, after all other values, and no later ones.
    fn internal_inconsistencies(&mut self) {
        for (reader, transaction) in self.versions.history.transactions.iter().enumerate() {
            if transaction.outcome != TransactionOutcome::Committed {
                continue;
            }
            let mut appended: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            for operation in &transaction.operations {
                match operation {
                    Operation::Append { key, value } => appended.entry(*key).or_default().push(*value),
                    Operation::Read { key, list } => {
                        let own = appended.get(key).map_or(&[][..], Vec::as_slice);
                        let read = Observation { reader: Some(reader), key: *key, list };
                        let others = self.versions.without_own(read);
                        let scattered =
                            others.iter().any(|&value| self.versions.appender(*key, value) == Some(reader));
                        if scattered || &list[others.len()..] != own {
                            let evidence = format!(
                                "{} {}, having appended {} by then",
                                describe(read),
                                List(list),
                                List(own)
                            );
                            self.anomalies.push(anomaly(
                                self.versions,
                                AnomalyKind::InternalInconsistency,
                                evidence,
                                [reader],
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Finds transactions that read the same state of a list and then appended to it.
    fn lost_updates(&mut self) {
        let mut appended_to: BTreeMap<(i64, &[i64]), Vec<usize>> = BTreeMap::new();
        for (i, transaction) in self.versions.history.transactions.iter().enumerate() {
            if transaction.outcome != TransactionOutcome::Committed {
                continue;
            }
            // The last read before the first append is the state that the transaction acted on.
            let mut state: BTreeMap<i64, &[i64]> = BTreeMap::new();
            let mut appended = HashSet::new();
            for operation in &transaction.operations {
                match operation {
                    Operation::Read { key, list } if !appended.contains(key) => {
                        state.insert(*key, list);
                    }
                    Operation::Read { .. } => {}
                    Operation::Append { key, .. } => {
                        if appended.insert(*key)
                            && let Some(list) = state.get(key)
                        {
                            appended_to.entry((*key, list)).or_default().push(i);
                        }
                    }
                }
            }
        }
        for ((key, list), transactions) in appended_to {
            if transactions.len() > 1 {
                let evidence =
                    format!("{} read {} of key {key} and appended to it", all_of(&transactions), List(list));
                let kind = AnomalyKind::LostUpdate;
                self.anomalies.push(anomaly(self.versions, kind, evidence, transactions));
            }
        }
    }
}

fn anomaly(
    versions: &Versions<'_>,
    kind: AnomalyKind,
    evidence: String,
    transactions: impl IntoIterator<Item = usize>,
) -> Anomaly {
    Anomaly { kind, evidence, cycle: Vec::new(), transactions: versions.displayed(transactions) }
}

fn describe(read: Observation<'_>) -> String {
    match read.reader {
        Some(reader) => format!("T{} read key {} with", reader + 1, read.key),
        None => format!("key {} ended with", read.key),
    }
}

fn all_of(transactions: &[usize]) -> String {
    let names: Vec<_> = transactions.iter().map(|transaction| format!("T{}", transaction + 1)).collect();
    names.join(" and ")
}
