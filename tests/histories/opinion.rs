//! What `adya`, a checker of others, says about the same histories.

use adya::{History as Theirs, Opts, Valid, Workload, check};
use atomically::Isolation;
use atomically::testing::history::{History, Operation, TransactionOutcome};

use crate::simulation::{Simulated, history};

/// In the format of Jepsen: one line for each beginning and each end.
fn as_json(history: &History) -> String {
    let mut lines = String::new();
    for (process, transaction) in history.transactions().iter().enumerate() {
        let operations: Vec<_> = transaction.operations().iter().map(operation).collect();
        let operations = operations.join(",");
        let end = match transaction.outcome() {
            TransactionOutcome::Committed => "ok",
            TransactionOutcome::Aborted => "fail",
            TransactionOutcome::Unknown => "info",
        };
        for kind in ["invoke", end] {
            lines.push_str(&format!(r#"{{"type":"{kind}","process":{process},"value":[{operations}]}}"#));
            lines.push('\n');
        }
    }
    lines
}

fn operation(operation: &Operation) -> String {
    match operation {
        Operation::Append { key, value } => format!(r#"["append",{key},{value}]"#),
        Operation::Read { key, list } => format!(r#"["r",{key},{list:?}]"#),
    }
}

#[test]
fn another_checker_says_the_same() {
    let levels = [
        (Isolation::ReadCommitted, "read-committed"),
        (Isolation::RepeatableRead, "snapshot-isolation"),
        (Isolation::Serializable, "serializable"),
    ];
    let (mut right, mut wrong) = (0, 0);
    for simulated in [Simulated::Serial, Simulated::Snapshot, Simulated::Committed, Simulated::LostUpdates] {
        for seed in 0..100 {
            let history = history(simulated, seed);
            let ours = history.check().expect("values are unique");
            let theirs = Theirs::from_json(&as_json(&history)).expect("their format");
            for (level, name) in levels {
                let options = Opts { models: vec![name.into()], ..Opts::default() };
                let report = check(&theirs, Workload::ListAppend, &options);
                let clean = ours.forbidden_at(level).next().is_none();
                assert_eq!(
                    report.valid == Valid::True,
                    clean,
                    "{simulated:?}, seed {seed}, {level}: they say {:?}; {ours}",
                    report.anomaly_types
                );
                if clean { right += 1 } else { wrong += 1 }
            }
        }
    }
    assert!(right > 300 && wrong > 300, "{right} right and {wrong} wrong ones do not compare much");
}
