//! Histories that a recorder records.

use atomically::testing::history::{
    AnomalyKind, Operation, Order, Recorder, Transaction, TransactionOutcome,
};

#[test]
fn every_attempt_is_recorded_as_a_transaction() {
    let recorder = Recorder::new();
    let (one, other) = (recorder.session(), recorder.session());
    let run = one.begin();
    let first = run.attempt();
    assert_eq!(first.append(7), 1);
    let second = run.attempt();
    second.read(7, []);
    assert_eq!(second.append(7), 2, "values are not reused in the next attempt");

    let overlapping = other.begin();
    overlapping.attempt().read(7, []);
    run.end(TransactionOutcome::Committed);
    overlapping.end(TransactionOutcome::Unknown);

    let expected = [
        Transaction::aborted([Operation::append(7, 1)]).in_session(1).between(1, 4),
        Transaction::committed([Operation::read(7, []), Operation::append(7, 2)])
            .in_session(1)
            .between(3, 11),
        Transaction::unknown([Operation::read(7, [])]).in_session(2).between(8, 12),
    ];
    assert_eq!(recorder.history().transactions(), expected);
}

/// The transaction may have a snapshot before the unit records the attempt.
#[test]
fn an_attempt_begins_when_its_first_packet_may_have_been_sent() {
    let recorder = Recorder::new();
    let (reading, writing) = (recorder.session().begin(), recorder.session().begin());
    // The writer runs between the BEGIN of the reader and its closure.
    let value = writing.attempt().append(1);
    writing.end(TransactionOutcome::Committed);
    reading.attempt().read(1, []);
    reading.end(TransactionOutcome::Committed);
    let again = recorder.session().begin();
    again.attempt().read(1, [value]);
    // The second attempt begins as soon as the first one has ended.
    let other = recorder.session().begin();
    let next = other.attempt().append(1);
    other.end(TransactionOutcome::Committed);
    again.attempt().read(1, [value]);
    again.end(TransactionOutcome::Committed);
    let history = recorder.history().ending_with(1, [value, next]);
    let report = history.check_in_order(Order::RealTime).expect("values are unique");
    assert_eq!(report.anomalies(), [], "{report}");
}

#[test]
fn a_failed_append_counts_as_aborted() {
    let recorder = Recorder::new();
    let run = recorder.session().begin();
    let attempt = run.attempt();
    let (failed, stored) = (attempt.append(1), attempt.append(1));
    attempt.not_appended(1, failed);
    run.end(TransactionOutcome::Committed);
    let history = recorder.history().ending_with(1, [stored]);
    assert_eq!(history.check().expect("values are unique").anomalies(), []);
    // If it was stored nevertheless, a read of it is an aborted read.
    let history = recorder.history().ending_with(1, [failed, stored]);
    assert!(history.check().expect("values are unique").has(AnomalyKind::AbortedRead));
}

#[test]
fn the_outcome_of_a_dropped_run_is_unknown() {
    let recorder = Recorder::new();
    let run = recorder.session().begin();
    let attempt = run.attempt();
    let value = attempt.append(1);
    assert_eq!(recorder.history().count(TransactionOutcome::Unknown), 1);
    drop((run, attempt));
    let history = recorder.history();
    assert_eq!(history.count(TransactionOutcome::Unknown), 1);
    let report = history.ending_with(1, [value]).check().expect("values are unique");
    assert_eq!(report.anomalies(), [], "it may have committed");
}

/// On a cluster, an earlier attempt may turn out to be stored after a later one has run.
#[test]
fn a_run_ends_as_the_attempt_that_its_unit_returned() {
    let recorder = Recorder::new();
    let run = recorder.session().begin();
    let (first, second) = (run.attempt(), run.attempt());
    let (stored, refused) = (first.append(1), second.append(1));
    run.end_as(&Ok(first));
    let history = recorder.history().ending_with(1, [stored]);
    assert_eq!(history.check().expect("values are unique").anomalies(), []);
    let history = recorder.history().ending_with(1, [stored, refused]);
    assert!(history.check().expect("values are unique").has(AnomalyKind::AbortedRead));
}

#[test]
fn recorders_share_no_state() {
    let (one, other) = (Recorder::new(), Recorder::new());
    let values = [&one, &other].map(|recorder| recorder.session().begin().attempt().append(1));
    assert_eq!(values, [1, 1]);
    assert_eq!(one.clone().history().transactions().len(), 1);
}
