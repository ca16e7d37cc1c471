//! One small history for each anomaly, and what is found in it: all of it, and the smallest cycle.

use atomically::Isolation;
use atomically::testing::history::{
    AnomalyKind, DuplicateValue, History, Operation, Order, Transaction, TransactionOutcome,
};

fn append(key: i64, value: i64) -> Operation {
    Operation::append(key, value)
}

fn read<const N: usize>(key: i64, list: [i64; N]) -> Operation {
    Operation::read(key, list)
}

fn committed<const N: usize>(operations: [Operation; N]) -> Transaction {
    Transaction::committed(operations)
}

fn aborted<const N: usize>(operations: [Operation; N]) -> Transaction {
    Transaction::aborted(operations)
}

fn history<const N: usize>(transactions: [Transaction; N]) -> History {
    transactions.into_iter().collect()
}

/// The first line of each explanation.
fn found(history: &History) -> Vec<String> {
    found_in(history, Order::Data)
}

fn found_in(history: &History, order: Order) -> Vec<String> {
    let report = history.check_in_order(order).expect("values are unique");
    let lines = report.anomalies().iter().map(|anomaly| anomaly.to_string());
    lines.map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_serial_history_is_clean() {
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
fn dirty_write() {
    let interleaved = history([
        committed([append(1, 1), append(2, 1)]),
        committed([append(1, 2), append(2, 2)]),
        committed([read(1, [1, 2])]),
        committed([read(2, [2, 1])]),
    ]);
    assert_eq!(found(&interleaved), ["dirty write (G0): T1 -ww-> T2 -ww-> T1"]);
}

#[test]
fn internal_inconsistency() {
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
fn duplicate_append() {
    let twice = history([committed([append(1, 1)]), committed([read(1, [1, 1])])]);
    assert_eq!(found(&twice), ["duplicate append: T2 read key 1 with 1 twice: [1 1]"]);
}

#[test]
fn garbage_read() {
    let garbage = history([committed([read(1, [9])])]);
    assert_eq!(found(&garbage), ["garbage read: T1 read key 1 with 9, which nobody appended"]);
}

#[test]
fn lost_append() {
    let lost = history([committed([append(1, 1)]), committed([append(1, 2)])]).ending_with(1, [2]);
    assert_eq!(found(&lost), ["lost append: T1 appended 1 to key 1, which held [2] in the end"]);
    // What is lost came before nobody and after nobody.
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
    // Nobody looked: it may be there.
    let unread = history([committed([append(1, 1)]), committed([append(1, 2)]), committed([read(1, [2])])]);
    assert_eq!(found(&unread), [""; 0]);
}

#[test]
fn aborted_read() {
    let dirty = history([aborted([append(1, 1)]), committed([read(1, [1])])]);
    assert_eq!(found(&dirty), ["aborted read (G1a): T2 read key 1 with 1 of T1, which was rolled back"]);
    let stored = history([aborted([append(1, 1)])]).ending_with(1, [1]);
    assert_eq!(found(&stored), ["aborted read (G1a): key 1 ended with 1 of T1, which was rolled back"]);
    // What a transaction saw that was itself rolled back binds nobody.
    let harmless = history([aborted([append(1, 1)]), aborted([read(1, [1])])]);
    assert_eq!(found(&harmless), [""; 0]);
}

#[test]
fn intermediate_read() {
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
    // It comes after the one, and before the other.
    assert_eq!(found[1..], ["G-single: T2 -rw-> T1 -wr-> T2"]);
}

#[test]
fn circular_information_flow() {
    let circle = history([committed([append(1, 1), read(2, [1])]), committed([append(2, 1), read(1, [1])])]);
    assert_eq!(found(&circle), ["circular information flow (G1c): T1 -wr-> T2 -wr-> T1"]);
}

#[test]
fn dirty_update() {
    let on_top = history([aborted([append(1, 1)]), committed([append(1, 2)])]).ending_with(1, [1, 2]);
    let found = found(&on_top);
    assert!(found[0].starts_with("aborted read (G1a)"), "{found:?}");
    assert_eq!(found[1..], ["dirty update: T2 appended 2 to key 1 behind 1, which T1 had rolled back"]);
}

#[test]
fn incompatible_order() {
    let forked = history([
        committed([append(1, 1)]),
        committed([append(1, 2)]),
        committed([append(1, 3), append(2, 3)]),
        committed([read(1, [1, 3])]),
        committed([read(1, [2]), read(2, [3])]),
    ]);
    // Nobody knows what came after the [2], so nothing else follows.
    assert_eq!(found(&forked), ["incompatible order: T5 read key 1 with [2], T4 read key 1 with [1 3]"]);
}

#[test]
fn lost_update() {
    let both = history([
        committed([append(1, 1)]),
        committed([read(1, [1]), append(1, 2)]),
        committed([read(1, [1]), append(1, 3)]),
    ]);
    // By the cycle it is only known once somebody has read who was first.
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
    // It looked again before it appended.
    let looked_again = history([
        committed([append(1, 1)]),
        committed([read(1, [1]), append(1, 2)]),
        committed([read(1, [1]), read(1, [1, 2]), append(1, 3)]),
    ]);
    assert_eq!(found(&looked_again), ["G-single: T3 -rw-> T2 -wr-> T3"]);
}

#[test]
fn read_skew() {
    let skew = history([
        committed([append(1, 1), append(2, 1)]),
        committed([read(1, []), read(2, [1])]),
        committed([read(1, [1])]),
    ]);
    assert_eq!(found(&skew), ["G-single: T2 -rw-> T1 -wr-> T2"]);
}

/// Two readers that disagree about which of two independent appends came first.
#[test]
fn long_fork() {
    let fork = history([
        committed([append(1, 1)]),
        committed([append(2, 1)]),
        committed([read(1, [1]), read(2, [])]),
        committed([read(1, []), read(2, [1])]),
    ]);
    assert_eq!(found(&fork), ["G-nonadjacent: T3 -rw-> T2 -wr-> T4 -rw-> T1 -wr-> T3"]);
}

#[test]
fn write_skew() {
    let skew = history([
        committed([read(1, []), read(2, []), append(1, 1)]),
        committed([read(1, []), read(2, []), append(2, 1)]),
    ]);
    assert_eq!(found(&skew), ["G2-item: T1 -rw-> T2 -rw-> T1"]);
    let report = skew.check().expect("values are unique");
    report.assert(Isolation::RepeatableRead);
    assert_eq!(report.forbidden_at(Isolation::Serializable).count(), 1);
}

/// A cycle of five, and one of three in the same knot: the smaller one is shown. T3 sees half of what T1 did,
/// which is wrong by itself, and has nothing to do with what T1 and T2 did to each other.
#[test]
fn one_cycle_does_not_hide_another() {
    let both = history([
        committed([read(1, []), append(2, 4), append(3, 6)]),
        committed([read(2, []), append(1, 5)]),
        committed([read(3, [6]), read(2, [])]),
    ]);
    let report = both.check().expect("values are unique");
    assert!(report.has(AnomalyKind::GSingle), "{report}");
    assert!(report.has(AnomalyKind::G2Item), "{report}");
    // A read skew alone is no write skew, however often one goes round.
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
fn the_smallest_cycle_is_shown() {
    let mut knot = history([
        committed([read(1, []), append(2, 1)]),
        committed([read(2, []), append(3, 1)]),
        committed([read(3, []), append(4, 1)]),
        committed([read(4, []), append(5, 1)]),
        committed([read(5, []), append(1, 1)]),
    ]);
    let all_around = "T1 -rw-> T5 -rw-> T4 -rw-> T3 -rw-> T2 -rw-> T1";
    assert_eq!(found(&knot), [format!("G2-item: {all_around}")]);
    knot.push(committed([read(1, []), append(5, 2)]));
    knot.push(committed([read(5, [1, 2]), read(1, [1])]));
    assert_eq!(found(&knot), ["G2-item: T5 -rw-> T4 -ww-> T6 -rw-> T5"]);
}

#[test]
fn an_unknown_one_counts_once_it_was_seen() {
    let unknown = Transaction::unknown([append(1, 1), append(2, 1)]);
    let unseen = history([unknown.clone(), committed([read(1, []), read(2, [])])]);
    assert_eq!(found(&unseen), [""; 0]);
    let seen = history([unknown, committed([read(1, []), read(2, [1])])]);
    assert_eq!(found(&seen), ["G-single: T2 -rw-> T1 -wr-> T2"]);
    let half =
        history([Transaction::unknown([append(1, 1), append(2, 1)])]).ending_with(1, [1]).ending_with(2, []);
    assert_eq!(found(&half), ["lost append: T1 appended 1 to key 2, which held [] in the end"]);
}

#[test]
fn a_stale_read_is_wrong_in_real_time_only() {
    let stale = history([
        committed([append(1, 1)]).in_session(1).between(1, 2),
        committed([read(1, [])]).in_session(2).between(3, 4),
    ]);
    assert_eq!(found(&stale), [""; 0]);
    assert_eq!(found_in(&stale, Order::Session), [""; 0], "these are two sessions");
    assert_eq!(found_in(&stale, Order::RealTime), ["G-single: T2 -rw-> T1 -real time-> T2"]);
    let overlapping =
        history([committed([append(1, 1)]).between(1, 3), committed([read(1, [])]).between(3, 4)]);
    assert_eq!(found_in(&overlapping, Order::RealTime), [""; 0]);
}

/// Of those that overlap, each is before what began after its own end.
#[test]
fn real_time_does_not_forget_the_overlapping() {
    let stale = history([
        committed([append(1, 1)]).between(1, 4),
        committed([read(2, [])]).between(2, 5),
        committed([read(1, [])]).between(6, 7),
    ]);
    assert_eq!(found_in(&stale, Order::RealTime), ["G-single: T3 -rw-> T1 -real time-> T3"]);
}

/// What the data show by themselves is not shown again because there is a clock as well.
#[test]
fn a_cycle_is_shown_once() {
    let skew = history([
        committed([read(1, []), append(2, 1)]).between(1, 3),
        committed([read(2, []), append(1, 1)]).between(2, 4),
        committed([read(1, [1])]).between(5, 6),
    ]);
    assert_eq!(found_in(&skew, Order::RealTime), ["G2-item: T1 -rw-> T2 -rw-> T1"]);
}

/// Real time reaches over transactions in between, of which only the latest are linked.
#[test]
fn real_time_is_transitive() {
    let stale = history([
        committed([append(1, 1)]).between(1, 2),
        committed([read(2, [])]).between(3, 4),
        committed([read(2, [])]).between(5, 6),
        committed([read(1, [])]).between(7, 8),
    ]);
    let cycle = "T4 -rw-> T1 -real time-> T2 -real time-> T3 -real time-> T4";
    assert_eq!(found_in(&stale, Order::RealTime), [format!("G-single: {cycle}")]);
}

#[test]
fn a_session_that_forgets_is_wrong_in_its_order_only() {
    let forgets = history([
        committed([append(1, 1)]).in_session(1),
        committed([read(1, [])]).in_session(1),
        committed([read(1, [1])]).in_session(2),
    ]);
    assert_eq!(found(&forgets), [""; 0]);
    assert_eq!(found_in(&forgets, Order::Session), ["G-single: T2 -rw-> T1 -session-> T2"]);
}

/// The session has gone on before it was known what became of its commit.
#[test]
fn an_unknown_commit_may_land_late() {
    let late = history([
        Transaction::unknown([append(1, 1)]).in_session(1),
        committed([read(1, []), append(2, 2)]).in_session(1),
        committed([read(1, [1]), read(2, [2])]).in_session(2),
    ]);
    assert_eq!(found_in(&late, Order::Session), [""; 0]);
    // What the session knew before still counts.
    let forgets = history([
        committed([append(1, 1)]).in_session(1),
        Transaction::unknown([append(2, 2)]).in_session(1),
        committed([read(1, [])]).in_session(1),
        committed([read(2, [2]), read(1, [1])]).in_session(2),
    ]);
    assert_eq!(found_in(&forgets, Order::Session), ["G-single: T3 -rw-> T1 -session-> T3"]);
}

#[test]
fn values_have_to_be_unique() {
    let ambiguous = history([committed([append(1, 1)]), aborted([append(1, 1)])]);
    assert_eq!(ambiguous.check().expect_err("which was read?"), DuplicateValue { key: 1, value: 1 });
    let other_list = history([committed([append(1, 1), append(2, 1)])]);
    assert!(other_list.check().is_ok());
}

#[test]
fn an_explanation_says_what_was_seen() {
    let skew = history([
        committed([read(1, []), append(2, 4)]).in_session(1),
        committed([read(2, []), append(1, 5)]).in_session(2),
    ]);
    let report = skew.check().expect("values are unique");
    assert_eq!(
        report.to_string(),
        "2 transactions committed, 0 aborted, 0 unknown: 1 anomaly

G2-item: T1 -rw-> T2 -rw-> T1
  T1 -rw-> T2: T1 read [] of key 1, without 5, which T2 appended
  T2 -rw-> T1: T2 read [] of key 2, without 4, which T1 appended
  T1 committed, session 1: read [] of key 1, append 4 to key 2
  T2 committed, session 2: read [] of key 2, append 5 to key 1"
    );
    let long = Operation::read(1, (0..20).collect::<Vec<_>>());
    assert_eq!(long.to_string(), "read [(12 more) 12 13 14 15 16 17 18 19] of key 1");
}

#[test]
#[should_panic(expected = "SERIALIZABLE forbids what happened here:\n\nG2-item: T1 -rw-> T2 -rw-> T1")]
fn an_assertion_says_what_it_found() {
    let skew = history([committed([read(1, []), append(2, 1)]), committed([read(2, []), append(1, 1)])]);
    skew.check().expect("values are unique").assert(Isolation::Serializable);
}

#[test]
#[should_panic(expected = "nothing was committed, so nothing was shown")]
fn an_empty_history_shows_nothing() {
    let empty = history([aborted([append(1, 1)])]);
    assert_eq!(empty.count(TransactionOutcome::Aborted), 1);
    empty.check().expect("values are unique").assert_none_of(&[AnomalyKind::LostUpdate]);
}

#[test]
#[should_panic(expected = "and 2 more")]
fn an_assertion_explains_five() {
    let garbage = history([committed([read(1, [1, 2, 3, 4, 5, 6, 7])])]);
    garbage.check().expect("values are unique").assert(Isolation::Serializable);
}
