//! Anomalies that single reads show.

use atomically::Isolation;
use atomically::testing::history::Transaction;

use super::{aborted, append, committed, found, history, read};

#[test]
fn a_serial_history_has_no_anomalies() {
    let clean = history([
        committed([append(1, 1), append(2, 1)]),
        committed([read(1, [1]), append(1, 2), read(1, [1, 2]), append(1, 3), read(1, [1, 2, 3])]),
        aborted([read(1, [1, 2, 3]), append(1, 4)]),
        committed([read(1, [1, 2, 3]), read(2, [1]), read(3, [])]),
        committed([append(3, 1)]),
    ])
    .ending_with(1, [1, 2, 3])
    .ending_with(3, [1]);
    assert_eq!(found(&clean), [""; 0]);
    let report = clean.check().expect("values are unique");
    assert_eq!(report.to_string(), "4 transactions committed, 1 aborted, 0 unknown: no anomaly");
    report.assert(Isolation::Serializable);
}

#[test]
fn detects_internal_inconsistency() {
    let reads = [
        committed([append(1, 1), read(1, [])]),
        committed([read(1, [1]), append(1, 1)]),
        committed([append(1, 1), read(1, [1, 2])]),
        committed([read(1, [1, 2]), append(1, 1)]),
    ];
    let lines = [
        "internal inconsistency: T1 read key 1 with [], having appended [1] by then",
        "internal inconsistency: T1 read key 1 with [1], having appended [] by then",
        "internal inconsistency: T1 read key 1 with [1 2], having appended [1] by then",
        "internal inconsistency: T1 read key 1 with [1 2], having appended [] by then",
    ];
    for (reader, line) in reads.into_iter().zip(lines) {
        let history = history([reader, committed([append(1, 2)])]);
        assert_eq!(found(&history)[0], line);
    }
}

#[test]
fn detects_duplicate_append() {
    let twice = history([committed([append(1, 1)]), committed([read(1, [1, 1])])]);
    assert_eq!(found(&twice), ["duplicate append: T2 read key 1 with 1 twice: [1 1]"]);
}

#[test]
fn detects_garbage_read() {
    let garbage = history([committed([read(1, [9])])]);
    assert_eq!(found(&garbage), ["garbage read: T1 read key 1 with 9, which was never appended"]);
}

#[test]
fn detects_lost_append() {
    let lost = history([committed([append(1, 1)]), committed([append(1, 2)])]).ending_with(1, [2]);
    assert_eq!(found(&lost), ["lost append: T1 appended 1 to key 1, which held [2] in the end"]);
    // A lost append has no dependencies, so there is no cycle.
    let overwritten =
        history([committed([read(1, []), append(1, 1)]), committed([read(1, []), append(1, 2)])])
            .ending_with(1, [2]);
    assert_eq!(
        found(&overwritten),
        [
            "lost append: T1 appended 1 to key 1, which held [2] in the end",
            "lost update (P4): T1 and T2 read [] of key 1 and appended to it",
        ]
    );
    // Without a final state the unread append may be stored.
    let unread = history([committed([append(1, 1)]), committed([append(1, 2)]), committed([read(1, [2])])]);
    assert_eq!(found(&unread), [""; 0]);
}

#[test]
fn detects_aborted_read() {
    let dirty = history([aborted([append(1, 1)]), committed([read(1, [1])])]);
    assert_eq!(found(&dirty), ["aborted read (G1a): T2 read key 1 with 1 of T1, which was rolled back"]);
    let stored = history([aborted([append(1, 1)])]).ending_with(1, [1]);
    assert_eq!(found(&stored), ["aborted read (G1a): key 1 ended with 1 of T1, which was rolled back"]);
    // Reads of a transaction that was rolled back do not count.
    let harmless = history([aborted([append(1, 1)]), aborted([read(1, [1])])]);
    assert_eq!(found(&harmless), [""; 0]);
}

#[test]
fn detects_intermediate_read() {
    let half = history([
        committed([append(1, 1), append(1, 2)]),
        committed([read(1, [1])]),
        committed([read(1, [1, 2])]),
    ]);
    let found = found(&half);
    assert_eq!(
        found[0],
        "intermediate read (G1b): T2 read key 1 with 1 as the last, and T1 appended more to it"
    );
    // T2 follows the first append of T1 and precedes the second.
    assert_eq!(found[1..], ["G-single: T2 -rw-> T1 -wr-> T2"]);
}

#[test]
fn detects_dirty_update() {
    let on_top = history([aborted([append(1, 1)]), committed([append(1, 2)])]).ending_with(1, [1, 2]);
    let found = found(&on_top);
    assert!(found[0].starts_with("aborted read (G1a)"), "{found:?}");
    assert_eq!(found[1..], ["dirty update: T2 appended 2 to key 1 after 1, which T1 rolled back"]);
}

#[test]
fn detects_incompatible_order() {
    let forked = history([
        committed([append(1, 1)]),
        committed([append(1, 2)]),
        committed([append(1, 3), append(2, 3)]),
        committed([read(1, [1, 3])]),
        committed([read(1, [2]), read(2, [3])]),
    ]);
    // The value after [2] is unknown, so there are no further dependencies.
    assert_eq!(found(&forked), ["incompatible order: T5 read key 1 with [2], T4 read key 1 with [1 3]"]);
}

#[test]
fn detects_lost_update() {
    let both = history([
        committed([append(1, 1)]),
        committed([read(1, [1]), append(1, 2)]),
        committed([read(1, [1]), append(1, 3)]),
    ]);
    // The cycle is only known once a read shows which append came first.
    assert_eq!(found(&both), ["lost update (P4): T2 and T3 read [1] of key 1 and appended to it"]);
    let mut seen = both;
    seen.push(committed([read(1, [1, 2, 3])]));
    assert_eq!(
        found(&seen),
        [
            "lost update (P4): T2 and T3 read [1] of key 1 and appended to it",
            "G-single: T3 -rw-> T2 -ww-> T3",
        ]
    );
    // T3 read again before it appended.
    let looked_again = history([
        committed([append(1, 1)]),
        committed([read(1, [1]), append(1, 2)]),
        committed([read(1, [1]), read(1, [1, 2]), append(1, 3)]),
    ]);
    assert_eq!(found(&looked_again), ["G-single: T3 -rw-> T2 -wr-> T3"]);
}

#[test]
fn duplicate_values_are_an_error() {
    let ambiguous = history([committed([append(1, 1)]), aborted([append(1, 1)])]);
    let duplicate = ambiguous.check().expect_err("ambiguous");
    assert_eq!((duplicate.key, duplicate.value), (1, 1));
    let other_list = history([committed([append(1, 1), append(2, 1)])]);
    assert!(other_list.check().is_ok());
}

#[test]
fn an_unknown_transaction_counts_once_it_was_read() {
    let unknown = Transaction::unknown([append(1, 1), append(2, 1)]);
    let unseen = history([unknown.clone(), committed([read(1, []), read(2, [])])]);
    assert_eq!(found(&unseen), [""; 0]);
    let seen = history([unknown, committed([read(1, []), read(2, [1])])]);
    assert_eq!(found(&seen), ["G-single: T2 -rw-> T1 -wr-> T2"]);
    let half =
        history([Transaction::unknown([append(1, 1), append(2, 1)])]).ending_with(1, [1]).ending_with(2, []);
    assert_eq!(found(&half), ["lost append: T1 appended 1 to key 2, which held [] in the end"]);
}
