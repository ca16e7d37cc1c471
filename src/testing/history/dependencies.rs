//! The dependencies between the transactions of a history.

use std::collections::{BTreeMap, HashSet};

use petgraph::graph::{DiGraph, NodeIndex};

use super::anomaly::DependencyKind;
use super::order::Order;
use super::transaction::{List, TransactionOutcome};
use super::versions::{Observation, Versions};

/// Why one transaction precedes another, with the evidence.
#[derive(Clone, Copy)]
pub(super) struct Dependency<'h> {
    pub(super) kind: DependencyKind,
    evidence: Evidence<'h>,
}

#[derive(Clone, Copy)]
enum Evidence<'h> {
    /// The later value comes right after the earlier one in the list.
    Follows { key: i64, earlier: i64, later: i64 },
    /// No transaction has read the later value, so it comes after all values that were read.
    Unread { key: i64, earlier: i64, later: i64 },
    /// The reader read a list that ends with the value.
    Saw { key: i64, list: &'h [i64], value: i64 },
    /// The reader read the list without the value.
    Missed { key: i64, list: &'h [i64], value: i64 },
    /// The session.
    Session(u32),
    /// When the first ended and the second began.
    Times { ended: u64, began: u64 },
}

impl Dependency<'_> {
    /// Explains the evidence.
    pub(super) fn explain(&self, from: usize, to: usize) -> String {
        let (from, to) = (from + 1, to + 1);
        match self.evidence {
            Evidence::Follows { key, earlier, later } => {
                format!("T{from} appended {earlier} to key {key}, and T{to} appended {later} right after it")
            }
            Evidence::Unread { key, earlier, later } => {
                format!("T{from} appended {earlier} to key {key}, and {later} of T{to} was never read")
            }
            Evidence::Saw { key, list, value } => {
                format!("T{to} read {} of key {key}, and T{from} had appended {value}", List(list))
            }
            Evidence::Missed { key, list, value } => {
                format!("T{from} read {} of key {key}, without {value}, which T{to} appended", List(list))
            }
            Evidence::Session(session) => format!("session {session} ran T{from} before T{to}"),
            Evidence::Times { ended, began } => {
                format!("T{from} had ended at {ended}, and T{to} began at {began}")
            }
        }
    }
}

/// The dependencies of a history. The nodes are all transactions, with or without dependencies.
pub(super) struct Graph<'h> {
    pub(super) dependencies: DiGraph<(), Dependency<'h>, usize>,
    known: HashSet<(usize, usize, DependencyKind)>,
}

impl<'h> Graph<'h> {
    pub(super) fn new(versions: &Versions<'h>, order: Order) -> Self {
        let transactions = versions.history.transactions.len();
        let mut dependencies = DiGraph::with_capacity(transactions, 0);
        for _ in 0..transactions {
            dependencies.add_node(());
        }
        let mut graph = Self { dependencies, known: HashSet::new() };
        graph.add_appends(versions);
        graph.add_reads(versions);
        match order {
            Order::Data => {}
            Order::Session => graph.add_sessions(versions),
            Order::RealTime => graph.add_real_time(versions),
        }
        graph
    }

    /// A graph of these edges, without a history.
    #[cfg(test)]
    pub(super) fn of(nodes: usize, edges: &[(usize, usize, DependencyKind)]) -> Self {
        let mut graph =
            Self { dependencies: DiGraph::with_capacity(nodes, edges.len()), known: HashSet::new() };
        for _ in 0..nodes {
            graph.dependencies.add_node(());
        }
        for (from, to, kind) in edges {
            graph.add(*from, *to, *kind, Evidence::Session(0));
        }
        graph
    }

    fn add(&mut self, from: usize, to: usize, kind: DependencyKind, evidence: Evidence<'h>) {
        if from != to && self.known.insert((from, to, kind)) {
            let (from, to) = (NodeIndex::new(from), NodeIndex::new(to));
            self.dependencies.add_edge(from, to, Dependency { kind, evidence });
        }
    }

    /// Appends precede each other in the order of the list. Appends that were never read come after all
    /// others.
    fn add_appends(&mut self, versions: &Versions<'h>) {
        for Observation { key, list, .. } in versions.longest() {
            let appends: Vec<_> = committed(versions, key, list).collect();
            for pair in appends.windows(2) {
                if let [(from, earlier), (to, later)] = *pair {
                    self.add(from, to, DependencyKind::WriteWrite, Evidence::Follows { key, earlier, later });
                }
            }
        }
        for (transaction, key, value) in unread(versions) {
            if let Some((from, earlier)) = committed(versions, key, versions.order(key)).next_back() {
                let evidence = Evidence::Unread { key, earlier, later: value };
                self.add(from, transaction, DependencyKind::WriteWrite, evidence);
            }
        }
    }

    /// A reader follows the appender of the last value that it read, and precedes the appender of the next
    /// one.
    fn add_reads(&mut self, versions: &Versions<'h>) {
        let mut unread_of: BTreeMap<i64, Vec<(usize, i64)>> = BTreeMap::new();
        for (transaction, key, value) in unread(versions) {
            unread_of.entry(key).or_default().push((transaction, value));
        }
        for read in versions.observations() {
            let Some(reader) = read.reader else { continue };
            let (key, list) = (read.key, versions.without_own(read));
            if let Some((appender, value)) = committed(versions, key, list).next_back() {
                self.add(appender, reader, DependencyKind::WriteRead, Evidence::Saw { key, list, value });
            }
            // For a read that is not a prefix of the order, the next value is unknown.
            let Some(rest) = versions.order(key).strip_prefix(list) else { continue };
            let nexts: Vec<_> = match committed(versions, key, rest).next() {
                Some(next) => vec![next],
                None => {
                    let unread = unread_of.get(&key).map_or(&[][..], Vec::as_slice);
                    // The reader appended as well, and the order of appends that were never read is unknown.
                    let has_appended = unread.iter().any(|(appender, _)| *appender == reader);
                    if has_appended { Vec::new() } else { unread.to_vec() }
                }
            };
            for (appender, value) in nexts {
                self.add(reader, appender, DependencyKind::ReadWrite, Evidence::Missed { key, list, value });
            }
        }
    }

    /// A session's commits precede its later transactions. A transaction with an unknown outcome may commit
    /// after the session has gone on: it follows the session's earlier transactions and precedes none.
    fn add_sessions(&mut self, versions: &Versions<'h>) {
        let mut latest = BTreeMap::new();
        for (i, transaction) in versions.history.transactions.iter().enumerate() {
            let Some(session) = transaction.session.filter(|_| versions.committed(i)) else { continue };
            let before = match transaction.outcome {
                TransactionOutcome::Committed => latest.insert(session, i),
                TransactionOutcome::Unknown | TransactionOutcome::Aborted => latest.get(&session).copied(),
            };
            if let Some(before) = before {
                self.add(before, i, DependencyKind::Session, Evidence::Session(session));
            }
        }
    }

    /// A transaction precedes those that began after it ended. Only the latest ones that ended are linked;
    /// the dependency on earlier ones is transitive.
    fn add_real_time(&mut self, versions: &Versions<'h>) {
        let mut events = Vec::new();
        for (i, transaction) in versions.history.transactions.iter().enumerate() {
            if let Some(began) = transaction.began.filter(|_| versions.committed(i)) {
                // At equal times, beginnings sort first, because neither transaction is known to precede the
                // other.
                events.push((began, false, i));
                let ended =
                    transaction.ended.filter(|_| transaction.outcome == TransactionOutcome::Committed);
                events.extend(ended.map(|ended| (ended, true, i)));
            }
        }
        events.sort_unstable();
        let mut latest: Vec<(usize, u64)> = Vec::new();
        for (at, is_end, i) in events {
            let Some(began) = versions.history.transactions[i].began else { continue };
            if is_end {
                latest.retain(|(_, ended)| *ended >= began);
                latest.push((i, at));
            } else {
                for &(before, ended) in &latest {
                    self.add(before, i, DependencyKind::RealTime, Evidence::Times { ended, began });
                }
            }
        }
    }
}

/// The values of a list that committed transactions appended, with their appenders.
fn committed<'v>(
    versions: &'v Versions<'_>,
    key: i64,
    list: &'v [i64],
) -> impl DoubleEndedIterator<Item = (usize, i64)> + 'v {
    let appends =
        list.iter().filter_map(move |&value| versions.appender(key, value).map(|appender| (appender, value)));
    appends.filter(|(appender, _)| versions.committed(*appender))
}

/// Committed appends that were never read. If the final state of the list is known, they are lost instead.
fn unread(versions: &Versions<'_>) -> impl Iterator<Item = (usize, i64, i64)> {
    versions.committed_appends().filter(|(_, key, value)| {
        !versions.history.last.contains_key(key) && !versions.was_read(*key, *value)
    })
}
