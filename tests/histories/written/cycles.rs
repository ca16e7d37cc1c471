//! Anomalies that are cycles of dependencies.

use atomically::Isolation;
use atomically::testing::history::AnomalyKind;

use super::{append, committed, found, history, read};

#[test]
fn detects_dirty_write() {
    let interleaved = history([
        committed([append(1, 1), append(2, 1)]),
        committed([append(1, 2), append(2, 2)]),
        committed([read(1, [1, 2])]),
        committed([read(2, [2, 1])]),
    ]);
    assert_eq!(found(&interleaved), ["dirty write (G0): T1 -ww-> T2 -ww-> T1"]);
}

#[test]
fn detects_circular_information_flow() {
    let circle = history([committed([append(1, 1), read(2, [1])]), committed([append(2, 1), read(1, [1])])]);
    assert_eq!(found(&circle), ["circular information flow (G1c): T1 -wr-> T2 -wr-> T1"]);
}

#[test]
fn detects_read_skew() {
    let skew = history([
        committed([append(1, 1), append(2, 1)]),
        committed([read(1, []), read(2, [1])]),
        committed([read(1, [1])]),
    ]);
    assert_eq!(found(&skew), ["G-single: T2 -rw-> T1 -wr-> T2"]);
}

/// Two readers disagree about the order of two independent appends.
#[test]
fn detects_long_fork() {
    let fork = history([
        committed([append(1, 1)]),
        committed([append(2, 1)]),
        committed([read(1, [1]), read(2, [])]),
        committed([read(1, []), read(2, [1])]),
    ]);
    assert_eq!(found(&fork), ["G-nonadjacent: T3 -rw-> T2 -wr-> T4 -rw-> T1 -wr-> T3"]);
}

#[test]
fn detects_write_skew() {
    let skew = history([
        committed([read(1, []), read(2, []), append(1, 1)]),
        committed([read(1, []), read(2, []), append(2, 1)]),
    ]);
    assert_eq!(found(&skew), ["G2-item: T1 -rw-> T2 -rw-> T1"]);
    let report = skew.check().expect("values are unique");
    report.assert(Isolation::RepeatableRead);
    assert_eq!(report.forbidden_at(Isolation::Serializable).count(), 1);
}

/// T3 reads only one of T1's appends, which is a G-single, independently of the G2-item of T1 and T2.
#[test]
fn a_cycle_does_not_hide_one_of_another_kind() {
    let both = history([
        committed([read(1, []), append(2, 4), append(3, 6)]),
        committed([read(2, []), append(1, 5)]),
        committed([read(3, [6]), read(2, [])]),
    ]);
    let report = both.check().expect("values are unique");
    assert!(report.has(AnomalyKind::GSingle), "{report}");
    assert!(report.has(AnomalyKind::G2Item), "{report}");
    // Going round a read skew several times does not make it a write skew.
    let alone = history([
        committed([append(2, 4), append(3, 6)]),
        committed([read(3, [6]), read(2, [])]),
        committed([read(2, [4]), read(3, [6])]),
    ]);
    let report = alone.check().expect("values are unique");
    assert!(report.has(AnomalyKind::GSingle), "{report}");
    assert!(!report.has(AnomalyKind::G2Item) && !report.has(AnomalyKind::GNonadjacent), "{report}");
}

#[test]
fn reports_the_shortest_cycle() {
    let mut cyclic = history([
        committed([read(1, []), append(2, 1)]),
        committed([read(2, []), append(3, 1)]),
        committed([read(3, []), append(4, 1)]),
        committed([read(4, []), append(5, 1)]),
        committed([read(5, []), append(1, 1)]),
    ]);
    let cycle = "T1 -rw-> T5 -rw-> T4 -rw-> T3 -rw-> T2 -rw-> T1";
    assert_eq!(found(&cyclic), [format!("G2-item: {cycle}")]);
    cyclic.push(committed([read(1, []), append(5, 2)]));
    cyclic.push(committed([read(5, [1, 2]), read(1, [1])]));
    assert_eq!(found(&cyclic), ["G2-item: T5 -rw-> T4 -ww-> T6 -rw-> T5"]);
}
