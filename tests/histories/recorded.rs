//! What a recorder writes down.

use atomically::testing::history::{Operation, Outcome, Recorder, Transaction};

#[test]
fn every_attempt_is_a_transaction() {
    let recorder = Recorder::new();
    let (one, other) = (recorder.session(), recorder.session());
    let run = one.begin();
    let first = run.attempt();
    assert_eq!(first.append(7), 1);
    let second = run.attempt();
    second.read(7, []);
    assert_eq!(second.append(7), 2, "the value of the attempt before is not used again");

    let overlapping = other.begin();
    overlapping.attempt().read(7, []);
    run.end(Outcome::Committed);
    overlapping.end(Outcome::Unknown);

    let wanted = [
        Transaction::aborted([Operation::append(7, 1)]).in_session(1).between(1, 2),
        Transaction::committed([Operation::read(7, []), Operation::append(7, 2)]).in_session(1).between(3, 5),
        Transaction::unknown([Operation::read(7, [])]).in_session(2).between(4, 6),
    ];
    assert_eq!(recorder.history().transactions(), wanted);
}

#[test]
fn a_run_that_is_dropped_stays_unknown() {
    let recorder = Recorder::new();
    let run = recorder.session().begin();
    let attempt = run.attempt();
    let value = attempt.append(1);
    assert_eq!(recorder.history().count(Outcome::Unknown), 1);
    drop((run, attempt));
    let history = recorder.history();
    assert_eq!(history.count(Outcome::Unknown), 1);
    let report = history.ending_with(1, [value]).check().expect("values are unique");
    assert_eq!(report.anomalies(), [], "it may have been stored");
}

#[test]
fn recorders_know_nothing_of_each_other() {
    let (one, other) = (Recorder::new(), Recorder::new());
    let values = [&one, &other].map(|recorder| recorder.session().begin().attempt().append(1));
    assert_eq!(values, [1, 1]);
    assert_eq!(one.clone().history().transactions().len(), 1);
}
