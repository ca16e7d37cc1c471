//! Histories of simulated databases: correct ones have no anomalies, and broken ones are detected.

use std::collections::{BTreeMap, BTreeSet};

use atomically::Isolation;
use atomically::testing::history::{AnomalyKind, History, Operation, Order, Transaction};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const SESSIONS: u32 = 5;
const KEYS: i64 = 3;
const SEEDS: u64 = 300;

/// The isolation of the simulated database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Simulated {
    /// One transaction after another.
    Serial,
    /// Transactions read the state at their beginning. One that appended to a list that another transaction
    /// has changed since is rolled back.
    Snapshot,
    /// Transactions read the committed state at the time of the read. An append locks its list, and a
    /// transaction that finds the list locked is rolled back.
    Committed,
    /// The same without locks, and an append writes back the list that was read.
    LostUpdates,
    /// Transactions read uncommitted appends.
    Uncommitted,
}

type Lists = BTreeMap<i64, Vec<i64>>;

struct Open {
    session: u32,
    began: u64,
    snapshot: Lists,
    /// The lists as this transaction leaves them.
    written: Lists,
    /// The values that it appended.
    appended: Lists,
    operations: Vec<Operation>,
    /// The number of operations that are left.
    left: u32,
}

/// The history of a random workload on the simulated database.
pub(super) fn history(simulated: Simulated, seed: u64) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut state, mut open, mut done) = (Lists::new(), Vec::<Open>::new(), Vec::new());
    let (mut value, mut time) = (0, 0);
    let sessions = if simulated == Simulated::Serial { 1 } else { SESSIONS };
    while done.len() < 30 {
        time += 1;
        let session = random.random_range(0..sessions);
        let Some(index) = open.iter().position(|open| open.session == session) else {
            let left = random.random_range(1..=4);
            open.push(Open {
                session,
                began: time,
                snapshot: state.clone(),
                written: Lists::new(),
                appended: Lists::new(),
                operations: Vec::new(),
                left,
            });
            continue;
        };
        let key = random.random_range(1..=KEYS);
        let append = random.random_bool(0.5);
        let is_locked = open.iter().any(|open| open.session != session && open.appended.contains_key(&key));
        let refused = simulated == Simulated::Committed && append && is_locked;
        let transaction = &mut open[index];
        if transaction.left > 0 && !refused {
            transaction.left -= 1;
            value += i64::from(append);
            step(simulated, &mut state, transaction, key, append.then_some(value));
        } else {
            let transaction = open.swap_remove(index);
            let wants_commit = transaction.left == 0 && random.random_bool(0.9);
            done.push(end(simulated, &mut state, transaction, wants_commit, time));
        }
    }
    // Transactions that are still open are rolled back.
    for transaction in open {
        done.push(end(simulated, &mut state, transaction, false, time));
    }
    let mut reads: Vec<_> = (1..=KEYS).collect();
    reads.sort_by_key(|_| random.random::<u32>());
    let last = reads.into_iter().map(|key| Operation::read(key, of(&state, key)));
    done.push(Transaction::committed(last).in_session(SESSIONS).between(time + 1, time + 2));
    done.into_iter().collect()
}

fn of(lists: &Lists, key: i64) -> Vec<i64> {
    lists.get(&key).cloned().unwrap_or_default()
}

fn step(simulated: Simulated, state: &mut Lists, open: &mut Open, key: i64, append: Option<i64>) {
    let mut list = match simulated {
        Simulated::Uncommitted => of(state, key),
        Simulated::Snapshot => of(&open.snapshot, key),
        Simulated::Serial | Simulated::Committed => of(state, key),
        Simulated::LostUpdates => open.written.get(&key).cloned().unwrap_or_else(|| of(state, key)),
    };
    if matches!(simulated, Simulated::Serial | Simulated::Committed | Simulated::Snapshot) {
        list.extend(of(&open.appended, key));
    }
    let Some(value) = append else {
        open.operations.push(Operation::read(key, list));
        return;
    };
    open.operations.push(Operation::append(key, value));
    open.appended.entry(key).or_default().push(value);
    list.push(value);
    if simulated == Simulated::Uncommitted {
        state.insert(key, list.clone());
    }
    open.written.insert(key, list);
}

fn end(simulated: Simulated, state: &mut Lists, open: Open, wants_commit: bool, time: u64) -> Transaction {
    let overtaken = simulated == Simulated::Snapshot
        && open.appended.keys().any(|key| of(state, *key) != of(&open.snapshot, *key));
    let commits = wants_commit && !overtaken;
    match simulated {
        Simulated::Uncommitted if !commits => {
            for (key, values) in &open.appended {
                state.entry(*key).or_default().retain(|value| !values.contains(value));
            }
        }
        Simulated::LostUpdates if commits => state.extend(open.written),
        Simulated::Serial | Simulated::Committed | Simulated::Snapshot if commits => {
            for (key, values) in open.appended {
                state.entry(key).or_default().extend(values);
            }
        }
        _ => {}
    }
    let transaction =
        if commits { Transaction::committed(open.operations) } else { Transaction::aborted(open.operations) };
    transaction.in_session(open.session).between(open.began, time)
}

/// The kinds of anomalies in the histories of all seeds. Asserts that none of them is forbidden at the level.
fn kinds(simulated: Simulated, level: Option<Isolation>, order: Order) -> BTreeSet<AnomalyKind> {
    let mut kinds = BTreeSet::new();
    for seed in 0..SEEDS {
        let report = history(simulated, seed).check_in_order(order).expect("values are unique");
        if let Some(level) = level {
            assert_eq!(report.forbidden_at(level).count(), 0, "{simulated:?}, seed {seed}: {report}");
        }
        kinds.extend(report.anomalies().iter().map(|anomaly| anomaly.kind()));
    }
    kinds
}

#[test]
fn a_serial_database_has_no_anomalies() {
    assert_eq!(kinds(Simulated::Serial, Some(Isolation::Serializable), Order::RealTime), BTreeSet::new());
}

#[test]
fn snapshot_isolation_shows_only_write_skew() {
    let kinds = kinds(Simulated::Snapshot, Some(Isolation::RepeatableRead), Order::RealTime);
    assert_eq!(kinds, BTreeSet::from([AnomalyKind::G2Item]));
}

#[test]
fn read_committed_shows_only_the_anomalies_that_it_allows() {
    let kinds = kinds(Simulated::Committed, Some(Isolation::ReadCommitted), Order::Data);
    let allowed =
        [AnomalyKind::LostUpdate, AnomalyKind::GSingle, AnomalyKind::GNonadjacent, AnomalyKind::G2Item];
    assert_eq!(kinds, BTreeSet::from(allowed));
}

#[test]
fn lost_updates_are_detected() {
    let kinds = kinds(Simulated::LostUpdates, None, Order::Data);
    assert!(kinds.contains(&AnomalyKind::LostUpdate), "{kinds:?}");
    assert!(kinds.contains(&AnomalyKind::IncompatibleOrder), "{kinds:?}");
}

#[test]
fn read_uncommitted_shows_dirty_reads_and_writes() {
    let kinds = kinds(Simulated::Uncommitted, None, Order::Data);
    for kind in [
        AnomalyKind::DirtyWrite,
        AnomalyKind::AbortedRead,
        AnomalyKind::IntermediateRead,
        AnomalyKind::CircularInformationFlow,
        AnomalyKind::DirtyUpdate,
    ] {
        assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
}
