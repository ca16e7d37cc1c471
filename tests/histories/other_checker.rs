//! A comparison with `adya`, an independent checker, on the same histories.

use adya::{History as AdyaHistory, Opts, Valid, Workload, check};
use atomically::Isolation;
use atomically::testing::history::{History, Operation, TransactionOutcome};

use crate::simulation::{Simulated, history};

/// The history in Jepsen's format: a line for the beginning and the end of each transaction.
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
fn another_checker_agrees() {
    let levels = [
        (Isolation::ReadCommitted, "read-committed"),
        (Isolation::RepeatableRead, "snapshot-isolation"),
        (Isolation::Serializable, "serializable"),
    ];
    let (mut valid, mut invalid) = (0, 0);
    for simulated in [Simulated::Serial, Simulated::Snapshot, Simulated::Committed, Simulated::LostUpdates] {
        for seed in 0..100 {
            let history = history(simulated, seed);
            let ours = history.check().expect("values are unique");
            let theirs = AdyaHistory::from_json(&as_json(&history)).expect("Jepsen's format");
            for (level, name) in levels {
                let options = Opts { models: vec![name.into()], ..Opts::default() };
                let report = check(&theirs, Workload::ListAppend, &options);
                let is_valid = ours.forbidden_at(level).next().is_none();
                assert_eq!(
                    report.valid == Valid::True,
                    is_valid,
                    "{simulated:?}, seed {seed}, {level}: the other checker found {:?}; {ours}",
                    report.anomaly_types
                );
                if is_valid { valid += 1 } else { invalid += 1 }
            }
        }
    }
    assert!(
        valid > 300 && invalid > 300,
        "too few to compare: {valid} valid and {invalid} invalid histories"
    );
}
