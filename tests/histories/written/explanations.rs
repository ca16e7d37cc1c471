//! Explanations and assertions.

use atomically::Isolation;
use atomically::testing::history::{AnomalyKind, Operation, TransactionOutcome};

use super::{aborted, append, committed, history, read};

#[test]
fn an_explanation_lists_the_reads_that_prove_it() {
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
#[should_panic(expected = "SERIALIZABLE forbids these anomalies:\n\nG2-item: T1 -rw-> T2 -rw-> T1")]
fn a_failed_assertion_explains_the_anomaly() {
    let skew = history([committed([read(1, []), append(2, 1)]), committed([read(2, []), append(1, 1)])]);
    skew.check().expect("values are unique").assert(Isolation::Serializable);
}

#[test]
#[should_panic(expected = "no transaction committed, so the history proves nothing")]
fn an_assertion_fails_without_commits() {
    let empty = history([aborted([append(1, 1)])]);
    assert_eq!(empty.count(TransactionOutcome::Aborted), 1);
    empty.check().expect("values are unique").assert_none_of(&[AnomalyKind::LostUpdate]);
}

#[test]
#[should_panic(expected = "and 2 more")]
fn a_failed_assertion_explains_five_anomalies() {
    let garbage = history([committed([read(1, [1, 2, 3, 4, 5, 6, 7])])]);
    garbage.check().expect("values are unique").assert(Isolation::Serializable);
}
