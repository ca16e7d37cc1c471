//! Histories that are written by hand, one for each anomaly.

mod cycles;
mod explanations;
mod order;
mod reads;

use atomically::testing::history::{History, Operation, Order, Transaction};

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

/// The first lines of the explanations of all anomalies.
fn found(history: &History) -> Vec<String> {
    found_in(history, Order::Data)
}

fn found_in(history: &History, order: Order) -> Vec<String> {
    let report = history.check_in_order(order).expect("values are unique");
    let lines = report.anomalies().iter().map(|anomaly| anomaly.to_string());
    lines.map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
}
