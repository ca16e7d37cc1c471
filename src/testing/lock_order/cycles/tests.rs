//! Which cycles are found and which are not.

use super::*;
use crate::testing::lock_order::effect::{Granted, Locking};
use crate::testing::lock_order::trace::{Answered, StatementText, TracedTransaction};

use Strength::{KeyShare, NoKeyUpdate, Share, Update};

fn lock(name: &str) -> Lock {
    Lock::Advisory(name.to_owned())
}

/// A transaction that acquires these locks one after the other, each by a statement of the same name.
fn taking(locks: &[(&str, Strength)]) -> TracedTransaction {
    let mut transaction = TracedTransaction::default();
    for (name, strength) in locks {
        take(&mut transaction, &[name], *strength, true);
    }
    transaction
}

fn take(transaction: &mut TracedTransaction, names: &[&str], strength: Strength, waits: bool) {
    request(transaction, names, strength, waits);
    transaction.answered(Answered { rows: names.len(), is_true: None });
}

/// Requests locks without an answer.
fn request(transaction: &mut TracedTransaction, names: &[&str], strength: Strength, waits: bool) {
    transaction.begin_statement();
    let statement = StatementText { sql: names.concat().into(), with_values: names.concat().into() };
    transaction.request(locking(names, strength, waits), &statement);
}

fn locking(names: &[&str], strength: Strength, waits: bool) -> Locking {
    let locks: Vec<Lock> = names.iter().map(|name| lock(name)).collect();
    let granted = Granted::IfRows(locks.len());
    Locking { locks, strength, waits, ordered: false, granted, session: false }
}

fn in_order(names: &str) -> TracedTransaction {
    let names: Vec<String> = names.chars().map(String::from).collect();
    taking(&names.iter().map(|name| (name.as_str(), Update)).collect::<Vec<_>>())
}

/// The cycles, written as `ab ba`.
fn found(transactions: Vec<TracedTransaction>) -> Vec<String> {
    let traces: Vec<Arc<Trace>> = transactions.into_iter().map(|one| Arc::new(one.trace)).collect();
    let show =
        |(held, wanted): &Part<'_>| format!("{}{}", held.statement.with_values, wanted.statement.with_values);
    let cycles = cycles(&traces);
    cycles.iter().map(|parts| parts.iter().map(show).collect::<Vec<_>>().join(" ")).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn two_opposite_orders_are_an_inversion() {
    assert_eq!(found(vec![in_order("ab"), in_order("ba")]), ["ab ba"]);
    assert_eq!(found(vec![in_order("axb"), in_order("bya")]), ["ab ba"]);
    assert_eq!(found(vec![in_order("ab"), in_order("ab"), in_order("bc"), in_order("ac")]), NONE);
    assert_eq!(found(vec![in_order("aba"), in_order("bb")]), NONE);
}

#[test]
fn finds_cycles_of_more_than_two_transactions() {
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("ca")]), ["ab bc ca"]);
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("cd"), in_order("da")]), ["ab bc cd da"]);
    // A cycle that contains an order of a shorter one is not reported.
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("ca"), in_order("ba")]), ["ab ba"]);
}

#[test]
fn reports_a_cycle_of_the_same_statements_once() {
    let transfer = |from: &str, to: &str| {
        let mut transaction = TracedTransaction::default();
        for name in [from, to] {
            let statement = StatementText { sql: "UPDATE".into(), with_values: name.into() };
            transaction.request(locking(&[name], Update, true), &statement);
        }
        transaction
    };
    let transfers = vec![transfer("a", "b"), transfer("b", "a"), transfer("c", "d"), transfer("d", "c")];
    assert_eq!(found(transfers), ["ab ba"]);
}

#[test]
fn a_gate_suppresses_an_inversion() {
    assert_eq!(found(vec![in_order("gab"), in_order("gba")]), NONE);
    assert_eq!(found(vec![in_order("gab"), in_order("hba")]), ["ab ba"]);
    // Acquired too late to be a gate.
    assert_eq!(found(vec![in_order("agb"), in_order("bga")]).len(), 2);
    // A shared lock is not a gate.
    let open = |names: [&str; 2]| taking(&[("g", Share), (names[0], Update), (names[1], Update)]);
    assert_eq!(found(vec![open(["a", "b"]), open(["b", "a"])]), ["ab ba"]);
    // A gate in front of two of three.
    assert_eq!(found(vec![in_order("gab"), in_order("gbc"), in_order("ca")]), NONE);
}

#[test]
fn a_lock_that_may_not_be_held_is_not_a_gate() {
    let behind = |rows, names: [&str; 2]| {
        let mut transaction = TracedTransaction::default();
        request(&mut transaction, &["g"], Update, true);
        if let Some(rows) = rows {
            transaction.answered(Answered { rows, is_true: None });
        }
        for name in names {
            take(&mut transaction, &[name], Update, true);
        }
        transaction
    };
    for (rows, expected) in [(Some(1), &NONE[..]), (Some(0), &["ab ba"]), (None, &["ab ba"])] {
        assert_eq!(found(vec![behind(rows, ["a", "b"]), behind(rows, ["b", "a"])]), expected, "{rows:?}");
    }
    // A second request shows that it is held.
    let again = |names: [&str; 2]| {
        let mut transaction = TracedTransaction::default();
        request(&mut transaction, &["g"], Update, true);
        for name in ["g", names[0], names[1]] {
            take(&mut transaction, &[name], Update, true);
        }
        transaction
    };
    assert_eq!(found(vec![again(["a", "b"]), again(["b", "a"])]), NONE);
}

#[test]
fn only_conflicting_strengths_cause_waits() {
    let both = |strength, names: [&str; 2]| taking(&[(names[0], strength), (names[1], strength)]);
    assert_eq!(found(vec![both(Share, ["a", "b"]), both(Share, ["b", "a"])]), NONE);
    assert_eq!(found(vec![both(Share, ["a", "b"]), both(Update, ["b", "a"])]), ["ab ba"]);
    assert_eq!(found(vec![both(KeyShare, ["a", "b"]), both(NoKeyUpdate, ["b", "a"])]), NONE);
    assert_eq!(found(vec![both(NoKeyUpdate, ["a", "b"]), both(NoKeyUpdate, ["b", "a"])]), ["ab ba"]);
}

#[test]
fn upgrading_a_shared_lock_is_an_inversion_by_itself() {
    assert_eq!(found(vec![taking(&[("a", Share), ("a", NoKeyUpdate)])]), ["aa"]);
    assert_eq!(found(vec![taking(&[("a", KeyShare), ("a", Update)])]), ["aa"]);
    // The strengths do not conflict, or only one transaction can hold the first.
    assert_eq!(found(vec![taking(&[("a", KeyShare), ("a", NoKeyUpdate)])]), NONE);
    assert_eq!(found(vec![taking(&[("a", NoKeyUpdate), ("a", Update)])]), NONE);
    assert_eq!(found(vec![taking(&[("g", Update), ("a", Share), ("a", Update)])]), NONE);
}

#[test]
fn a_request_that_does_not_wait_may_block_others() {
    let try_second = |first: &str, second: &str| {
        let mut transaction = taking(&[(first, Update)]);
        take(&mut transaction, &[second], Update, false);
        transaction
    };
    assert_eq!(found(vec![try_second("a", "b"), in_order("ba")]), NONE);
    let mut tried_first = try_second("x", "b");
    take(&mut tried_first, &["a"], Update, true);
    assert_eq!(found(vec![tried_first, in_order("ab")]), ["ba ab"]);
}

#[test]
fn locks_of_one_statement_have_no_order() {
    for others in [vec!["ab"], vec!["ba"], vec!["gab", "gba"]] {
        let mut together = TracedTransaction::default();
        take(&mut together, &["a", "b"], Update, true);
        assert_eq!(found([together].into_iter().chain(others.into_iter().map(in_order)).collect()), NONE);
    }
    let mut together = TracedTransaction::default();
    take(&mut together, &["a", "b"], Update, true);
    take(&mut together, &["c"], Update, true);
    assert_eq!(found(vec![together, in_order("cb")]), ["abc cb"]);
}

#[test]
fn released_locks_are_not_held() {
    let undone = |before: &str, inside: &str, behind: &str| {
        let mut transaction = in_order(before);
        transaction.savepoint("s".to_owned());
        for name in inside.chars() {
            take(&mut transaction, &[&name.to_string()], Update, true);
        }
        transaction.roll_back_to("s", false);
        for name in behind.chars() {
            take(&mut transaction, &[&name.to_string()], Update, true);
        }
        transaction
    };
    assert_eq!(found(vec![undone("", "a", "b"), in_order("ba")]), NONE);
    assert_eq!(found(vec![undone("a", "x", "b"), in_order("ba")]), ["ab ba"]);
    // The request before the rollback counts, and so does the one after it.
    assert_eq!(found(vec![undone("a", "b", ""), in_order("ba")]), ["ab ba"]);
    assert_eq!(found(vec![undone("", "a", "ab"), in_order("ba")]), ["ab ba"]);

    let mut failed = in_order("a");
    take(&mut failed, &["b"], Update, true);
    failed.refuse_statement();
    take(&mut failed, &["c"], Update, true);
    assert_eq!(found(vec![failed, in_order("cb")]), NONE);
}

#[test]
fn a_consistent_order_leaves_no_suspects() {
    let long: String = ('a'..='z').collect();
    let traces = [in_order(&long), in_order("az"), in_order("bdf")].map(|one| Arc::new(one.trace));
    assert!(suspects(&traces).is_empty());
    assert_eq!(suspects(&[in_order("xaby"), in_order("wbav")].map(|one| Arc::new(one.trace))).len(), 2);
}
