//! Which circles are found, and which are none.

use super::*;
use crate::testing::lock_order::sql::Locking;
use crate::testing::lock_order::trace::{Answered, Granted, Statement, Transaction};

use Strength::{KeyShare, NoKeyUpdate, Share, Update};

fn lock(name: &str) -> Lock {
    Lock::Advisory(name.to_owned())
}

/// A transaction that takes these one after the other, each by a statement of that name.
fn taking(locks: &[(&str, Strength)]) -> Transaction {
    let mut transaction = Transaction::default();
    for (name, strength) in locks {
        take(&mut transaction, &[name], *strength, true);
    }
    transaction
}

fn take(transaction: &mut Transaction, names: &[&str], strength: Strength, waits: bool) {
    ask(transaction, names, strength, waits);
    transaction.answered(Answered { rows: names.len(), is_true: None });
}

/// The same without an answer.
fn ask(transaction: &mut Transaction, names: &[&str], strength: Strength, waits: bool) {
    transaction.begin_statement();
    let statement = Statement { sql: names.concat().into(), shown: names.concat().into() };
    transaction.take(locking(names, strength, waits), &statement);
}

fn locking(names: &[&str], strength: Strength, waits: bool) -> Locking {
    let locks: Vec<Lock> = names.iter().map(|name| lock(name)).collect();
    let granted = Granted::IfRows(locks.len());
    Locking { locks, strength, waits, ordered: false, granted, outlives: false }
}

fn in_order(names: &str) -> Transaction {
    let names: Vec<String> = names.chars().map(String::from).collect();
    taking(&names.iter().map(|name| (name.as_str(), Update)).collect::<Vec<_>>())
}

/// The circles as `ab ba`.
fn found(transactions: Vec<Transaction>) -> Vec<String> {
    let traces: Vec<Arc<Trace>> = transactions.into_iter().map(|one| Arc::new(one.trace)).collect();
    let show = |(held, wanted): &Part<'_>| format!("{}{}", held.statement.shown, wanted.statement.shown);
    let cycles = cycles(&traces);
    cycles.iter().map(|parts| parts.iter().map(show).collect::<Vec<_>>().join(" ")).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn two_orders_are_an_inversion() {
    assert_eq!(found(vec![in_order("ab"), in_order("ba")]), ["ab ba"]);
    assert_eq!(found(vec![in_order("axb"), in_order("bya")]), ["ab ba"]);
    assert_eq!(found(vec![in_order("ab"), in_order("ab"), in_order("bc"), in_order("ac")]), NONE);
    assert_eq!(found(vec![in_order("aba"), in_order("bb")]), NONE);
}

#[test]
fn circles_may_be_longer() {
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("ca")]), ["ab bc ca"]);
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("cd"), in_order("da")]), ["ab bc cd da"]);
    // What the shorter one explains is not told again.
    assert_eq!(found(vec![in_order("ab"), in_order("bc"), in_order("ca"), in_order("ba")]), ["ab ba"]);
}

#[test]
fn the_same_statements_are_told_once() {
    let transfer = |from: &str, to: &str| {
        let mut transaction = Transaction::default();
        for name in [from, to] {
            let statement = Statement { sql: "UPDATE".into(), shown: name.into() };
            transaction.take(locking(&[name], Update, true), &statement);
        }
        transaction
    };
    let transfers = vec![transfer("a", "b"), transfer("b", "a"), transfer("c", "d"), transfer("d", "c")];
    assert_eq!(found(transfers), ["ab ba"]);
}

#[test]
fn a_gate_keeps_them_apart() {
    assert_eq!(found(vec![in_order("gab"), in_order("gba")]), NONE);
    assert_eq!(found(vec![in_order("gab"), in_order("hba")]), ["ab ba"]);
    // Too late to be one.
    assert_eq!(found(vec![in_order("agb"), in_order("bga")]).len(), 2);
    // A gate that lets both through.
    let open = |names: [&str; 2]| taking(&[("g", Share), (names[0], Update), (names[1], Update)]);
    assert_eq!(found(vec![open(["a", "b"]), open(["b", "a"])]), ["ab ba"]);
    // A gate in front of two of three.
    assert_eq!(found(vec![in_order("gab"), in_order("gbc"), in_order("ca")]), NONE);
}

#[test]
fn a_lock_that_may_not_be_held_is_no_gate() {
    let behind = |rows, names: [&str; 2]| {
        let mut transaction = Transaction::default();
        ask(&mut transaction, &["g"], Update, true);
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
    // Asked for again, it turns out to be there.
    let again = |names: [&str; 2]| {
        let mut transaction = Transaction::default();
        ask(&mut transaction, &["g"], Update, true);
        for name in ["g", names[0], names[1]] {
            take(&mut transaction, &[name], Update, true);
        }
        transaction
    };
    assert_eq!(found(vec![again(["a", "b"]), again(["b", "a"])]), NONE);
}

#[test]
fn only_what_excludes_is_waited_for() {
    let both = |strength, names: [&str; 2]| taking(&[(names[0], strength), (names[1], strength)]);
    assert_eq!(found(vec![both(Share, ["a", "b"]), both(Share, ["b", "a"])]), NONE);
    assert_eq!(found(vec![both(Share, ["a", "b"]), both(Update, ["b", "a"])]), ["ab ba"]);
    assert_eq!(found(vec![both(KeyShare, ["a", "b"]), both(NoKeyUpdate, ["b", "a"])]), NONE);
    assert_eq!(found(vec![both(NoKeyUpdate, ["a", "b"]), both(NoKeyUpdate, ["b", "a"])]), ["ab ba"]);
}

#[test]
fn sharing_before_changing_is_an_inversion_by_itself() {
    assert_eq!(found(vec![taking(&[("a", Share), ("a", NoKeyUpdate)])]), ["aa"]);
    assert_eq!(found(vec![taking(&[("a", KeyShare), ("a", Update)])]), ["aa"]);
    // Neither is in the other's way, or there cannot be two.
    assert_eq!(found(vec![taking(&[("a", KeyShare), ("a", NoKeyUpdate)])]), NONE);
    assert_eq!(found(vec![taking(&[("a", NoKeyUpdate), ("a", Update)])]), NONE);
    assert_eq!(found(vec![taking(&[("g", Update), ("a", Share), ("a", Update)])]), NONE);
}

#[test]
fn who_does_not_wait_is_waited_for() {
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
fn taken_together_they_have_no_order() {
    for others in [vec!["ab"], vec!["ba"], vec!["gab", "gba"]] {
        let mut together = Transaction::default();
        take(&mut together, &["a", "b"], Update, true);
        assert_eq!(found([together].into_iter().chain(others.into_iter().map(in_order)).collect()), NONE);
    }
    let mut together = Transaction::default();
    take(&mut together, &["a", "b"], Update, true);
    take(&mut together, &["c"], Update, true);
    assert_eq!(found(vec![together, in_order("cb")]), ["abc cb"]);
}

#[test]
fn what_was_given_back_is_not_held() {
    let undone = |before: &str, inside: &str, behind: &str| {
        let mut transaction = in_order(before);
        transaction.savepoint("s".to_owned());
        for name in inside.chars() {
            take(&mut transaction, &[&name.to_string()], Update, true);
        }
        transaction.undo_to("s", false);
        for name in behind.chars() {
            take(&mut transaction, &[&name.to_string()], Update, true);
        }
        transaction
    };
    assert_eq!(found(vec![undone("", "a", "b"), in_order("ba")]), NONE);
    assert_eq!(found(vec![undone("a", "x", "b"), in_order("ba")]), ["ab ba"]);
    // It was asked for, all the same, and is again.
    assert_eq!(found(vec![undone("a", "b", ""), in_order("ba")]), ["ab ba"]);
    assert_eq!(found(vec![undone("", "a", "ab"), in_order("ba")]), ["ab ba"]);

    let mut failed = in_order("a");
    take(&mut failed, &["b"], Update, true);
    failed.undo_statement();
    take(&mut failed, &["c"], Update, true);
    assert_eq!(found(vec![failed, in_order("cb")]), NONE);
}

/// Long orders that agree leave nothing to search.
#[test]
fn one_order_leaves_no_suspects() {
    let long: String = ('a'..='z').collect();
    let traces = [in_order(&long), in_order("az"), in_order("bdf")].map(|one| Arc::new(one.trace));
    assert!(suspects(&traces).is_empty());
    assert_eq!(suspects(&[in_order("xaby"), in_order("wbav")].map(|one| Arc::new(one.trace))).len(), 2);
}
