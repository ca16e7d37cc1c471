//! The anomalies that show without a cycle.

use std::collections::{BTreeMap, HashSet};

use super::anomaly::{Anomaly, AnomalyKind};
use super::transaction::{List, Operation, Outcome};
use super::versions::{Observation, Versions};

/// Collects anomalies, one of a kind for each value (or list) that is concerned.
struct Findings<'v, 'h> {
    versions: &'v Versions<'h>,
    known: HashSet<(AnomalyKind, i64, Option<i64>)>,
    anomalies: Vec<Anomaly>,
}

/// Everything that is wrong with the reads of a history.
pub(super) fn anomalies(versions: &Versions<'_>) -> Vec<Anomaly> {
    let mut findings = Findings { versions, known: HashSet::new(), anomalies: Vec::new() };
    for seen in versions.observations() {
        findings.values(seen);
        findings.intermediate_read(seen);
        findings.incompatible_order(seen);
    }
    findings.dirty_updates();
    findings.lost_appends();
    findings.internal_inconsistencies();
    findings.lost_updates();
    findings.anomalies
}

impl Findings<'_, '_> {
    fn found(
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

    /// Each value was appended, once, and by somebody who was not rolled back.
    fn values(&mut self, seen: Observation<'_>) {
        let Observation { key, reader, list } = seen;
        let mut values = HashSet::new();
        for &value in list {
            let appender = self.versions.appender(key, value);
            let concerned = reader.into_iter().chain(appender);
            if !values.insert(value) {
                let evidence = format!("{} {value} twice: {}", describe(seen), List(list));
                self.found(AnomalyKind::DuplicateAppend, key, Some(value), concerned.clone(), evidence);
            }
            let Some(appender) = appender else {
                let evidence = format!("{} {value}, which nobody appended", describe(seen));
                self.found(AnomalyKind::GarbageRead, key, Some(value), concerned, evidence);
                continue;
            };
            if self.versions.history.transactions[appender].outcome == Outcome::Aborted {
                let evidence =
                    format!("{} {value} of T{}, which was rolled back", describe(seen), appender + 1);
                self.found(AnomalyKind::AbortedRead, key, Some(value), concerned, evidence);
            }
        }
    }

    /// A list as others see it ends with the last thing that somebody appended to it.
    fn intermediate_read(&mut self, seen: Observation<'_>) {
        let (Some(reader), Some(&value)) = (seen.reader, self.versions.without_own(seen).last()) else {
            return;
        };
        let Some(appender) = self.versions.appender(seen.key, value) else { return };
        if appender != reader && self.versions.is_intermediate(seen.key, value) {
            let evidence =
                format!("{} {value} as the last, and T{} appended more to it", describe(seen), appender + 1);
            self.found(AnomalyKind::IntermediateRead, seen.key, Some(value), [reader, appender], evidence);
        }
    }

    fn incompatible_order(&mut self, seen: Observation<'_>) {
        let Some(longest) = self.versions.longest_of(seen.key) else { return };
        if !longest.list.starts_with(seen.list) {
            let evidence = format!(
                "{} {}, {} {}",
                describe(seen),
                List(seen.list),
                describe(longest),
                List(longest.list)
            );
            let concerned = seen.reader.into_iter().chain(longest.reader);
            self.found(AnomalyKind::IncompatibleOrder, seen.key, None, concerned, evidence);
        }
    }

    fn dirty_updates(&mut self) {
        for Observation { key, list, .. } in self.versions.longest() {
            let mut aborted = None;
            for &value in list {
                let Some(appender) = self.versions.appender(key, value) else { continue };
                if self.versions.history.transactions[appender].outcome == Outcome::Aborted {
                    aborted = Some((appender, value));
                } else if let Some((before, dirty)) = aborted.take() {
                    let evidence = format!(
                        "T{} appended {value} to key {key} behind {dirty}, which T{} had rolled back",
                        appender + 1,
                        before + 1
                    );
                    self.found(AnomalyKind::DirtyUpdate, key, Some(dirty), [before, appender], evidence);
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
                self.found(AnomalyKind::LostAppend, key, Some(value), [transaction], evidence);
            }
        }
    }

    /// A transaction sees what it has appended, behind everything else, and not before it has.
    fn internal_inconsistencies(&mut self) {
        for (reader, transaction) in self.versions.history.transactions.iter().enumerate() {
            if transaction.outcome != Outcome::Committed {
                continue;
            }
            let mut appended: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            for operation in &transaction.operations {
                match operation {
                    Operation::Append { key, value } => appended.entry(*key).or_default().push(*value),
                    Operation::Read { key, list } => {
                        let own = appended.get(key).map_or(&[][..], Vec::as_slice);
                        let seen = Observation { reader: Some(reader), key: *key, list };
                        let others = self.versions.without_own(seen);
                        let scattered =
                            others.iter().any(|&value| self.versions.appender(*key, value) == Some(reader));
                        if scattered || &list[others.len()..] != own {
                            let evidence = format!(
                                "{} {}, having appended {} by then",
                                describe(seen),
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

    /// Two that appended to one and the same state of a list, each without the other's append.
    fn lost_updates(&mut self) {
        let mut appended_to: BTreeMap<(i64, &[i64]), Vec<usize>> = BTreeMap::new();
        for (i, transaction) in self.versions.history.transactions.iter().enumerate() {
            if transaction.outcome != Outcome::Committed {
                continue;
            }
            // What it saw last before it first appended is what it acted on.
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
    Anomaly { kind, evidence, cycle: Vec::new(), transactions: versions.printed(transactions) }
}

fn describe(seen: Observation<'_>) -> String {
    match seen.reader {
        Some(reader) => format!("T{} read key {} with", reader + 1, seen.key),
        None => format!("key {} ended with", seen.key),
    }
}

fn all_of(transactions: &[usize]) -> String {
    let names: Vec<_> = transactions.iter().map(|transaction| format!("T{}", transaction + 1)).collect();
    names.join(" and ")
}
