//! Transactions that may wait for each other in a circle.
//!
//! A transaction that holds some locks and asks for another one may wait for whoever holds that. A circle of such
//! waits is a deadlock to come, unless two of the transactions cannot be at it at the same time: because they certainly
//! hold, at that point, a lock that keeps the other one out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::lock::Strength;

use super::trace::{Lock, Taken, Trace, conflict, covers};

/// A place in a trace at which a lock is asked for while others are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wait {
    trace: usize,
    place: usize,
}

/// One transaction's part in a circle: it holds the first and asks for the second.
pub(super) type Part<'t> = (&'t Taken, &'t Taken);

/// For each wait that is part of a circle, a shortest one; each circle of the same statements once, and none that a
/// shorter one with the same wait in it explains. Shortest first.
pub(super) fn cycles(traces: &[Arc<Trace>]) -> Vec<Vec<Part<'_>>> {
    let waits = Waits::of(traces);
    let mut found: Vec<Vec<Wait>> = waits.all.iter().filter_map(|wait| waits.circle_from(*wait)).collect();
    found.sort_by_key(Vec::len);
    let (mut explained, mut told, mut cycles) = (HashMap::new(), HashSet::new(), Vec::new());
    for circle in found {
        if circle.iter().any(|wait| explained.get(wait).is_some_and(|length| *length < circle.len())) {
            continue;
        }
        for wait in &circle {
            explained.entry(*wait).or_insert(circle.len());
        }
        let parts = waits.parts(&circle);
        let mut statements: Vec<_> =
            parts.iter().map(|(held, wanted)| (&held.statement.sql, &wanted.statement.sql)).collect();
        statements.sort();
        if told.insert(statements) {
            cycles.push(parts);
        }
    }
    cycles
}

struct Waits<'t> {
    traces: &'t [Arc<Trace>],
    all: Vec<Wait>,
    /// At which waits a lock is held.
    holding: HashMap<&'t Lock, Vec<Wait>>,
}

impl<'t> Waits<'t> {
    fn of(traces: &'t [Arc<Trace>]) -> Self {
        let suspects = suspects(traces);
        let mut waits = Self { traces, all: Vec::new(), holding: HashMap::new() };
        for (number, trace) in traces.iter().enumerate() {
            for (place, wanted) in trace.0.iter().enumerate() {
                if !wanted.waits || !suspects.contains(&wanted.lock) {
                    continue;
                }
                let wait = Wait { trace: number, place };
                let held: HashSet<&Lock> = trace.held_at(place).map(|held| &held.lock).collect();
                let held: Vec<&Lock> = held.into_iter().filter(|lock| suspects.contains(lock)).collect();
                if !held.is_empty() {
                    waits.all.push(wait);
                }
                for lock in held {
                    waits.holding.entry(lock).or_default().push(wait);
                }
            }
        }
        waits
    }

    fn wanted(&self, wait: Wait) -> &'t Taken {
        &self.traces[wait.trace].0[wait.place]
    }

    fn held(&self, wait: Wait) -> HashMap<&'t Lock, Strength> {
        Self::strongest(self.traces[wait.trace].held_at(wait.place))
    }

    /// Of these, those that are certainly held.
    fn certainly_held(&self, wait: Wait) -> HashMap<&'t Lock, Strength> {
        let held = self.traces[wait.trace].held_at(wait.place);
        Self::strongest(held.filter(|held| held.is_certain_at(wait.place)))
    }

    fn strongest(taken: impl Iterator<Item = &'t Taken>) -> HashMap<&'t Lock, Strength> {
        let mut all = HashMap::new();
        for held in taken {
            let strength = all.entry(&held.lock).or_insert(held.strength);
            if covers(held.strength, *strength) {
                *strength = held.strength;
            }
        }
        all
    }

    /// A shortest circle that begins here. Each wait is reached once, by a shortest way; where a gate closes that way
    /// further on, a longer one around it is not tried.
    fn circle_from(&self, start: Wait) -> Option<Vec<Wait>> {
        let mut reached = HashSet::from([start]);
        let mut chains = VecDeque::from([vec![start]]);
        while let Some(chain) = chains.pop_front() {
            let wanted = self.wanted(*chain.last()?);
            for next in self.holding.get(&wanted.lock).into_iter().flatten() {
                let held = self.held(*next);
                let is_in_the_way =
                    held.get(&wanted.lock).is_some_and(|strength| conflict(*strength, wanted.strength));
                if !is_in_the_way {
                    continue;
                }
                if *next == start {
                    // One wait is a circle if two transactions can be at it.
                    if chain.len() > 1 || self.together(*next, start) {
                        return Some(chain);
                    }
                } else if !reached.contains(next) && chain.iter().all(|wait| self.together(*next, *wait)) {
                    reached.insert(*next);
                    chains.push_back(chain.iter().copied().chain([*next]).collect());
                }
            }
        }
        None
    }

    /// Whether one transaction can be at the one wait while another one is at the other.
    fn together(&self, one: Wait, other: Wait) -> bool {
        let others = self.certainly_held(other);
        !self
            .certainly_held(one)
            .iter()
            .any(|(lock, one)| others.get(lock).is_some_and(|other| conflict(*one, *other)))
    }

    /// What each transaction of a circle holds that the one before it asks for, and what it asks for itself.
    fn parts(&self, circle: &[Wait]) -> Vec<Part<'t>> {
        let before = circle.iter().cycle().skip(circle.len().saturating_sub(1));
        before
            .zip(circle)
            .filter_map(|(before, wait)| {
                let lock = &self.wanted(*before).lock;
                let held = self.traces[wait.trace].held_at(wait.place).find(|held| held.lock == *lock)?;
                Some((held, self.wanted(*wait)))
            })
            .collect()
    }
}

/// The locks that may be part of a circle: a quick look that leaves nothing when everybody keeps one order.
fn suspects(traces: &[Arc<Trace>]) -> HashSet<&Lock> {
    let mut edges = HashSet::new();
    for trace in traces {
        // From each lock to the next ones is enough: the others are reached through them.
        let steps: Vec<&[Taken]> = trace.0.chunk_by(|one, next| one.together == next.together).collect();
        for (step, next) in steps.iter().zip(steps.iter().skip(1)) {
            for held in *step {
                edges.extend(next.iter().map(|wanted| (&held.lock, &wanted.lock)));
            }
        }
    }
    let backwards = |edges: Vec<(_, _)>| edges.into_iter().map(|(from, to)| (to, from)).collect();
    let edges = without_beginnings(edges.into_iter().collect());
    let edges = without_beginnings(backwards(edges));
    edges.into_iter().flat_map(|(from, to)| [from, to]).collect()
}

/// Leaves out what nothing leads to, and then what nothing leads to any more.
fn without_beginnings<'t>(edges: Vec<(&'t Lock, &'t Lock)>) -> Vec<(&'t Lock, &'t Lock)> {
    let mut leading_to: HashMap<&Lock, usize> = HashMap::new();
    let mut next: HashMap<&Lock, Vec<&Lock>> = HashMap::new();
    for (from, to) in &edges {
        leading_to.entry(from).or_default();
        *leading_to.entry(to).or_default() += 1;
        next.entry(from).or_default().push(to);
    }
    let mut beginnings: Vec<&Lock> =
        leading_to.iter().filter(|(_, count)| **count == 0).map(|(lock, _)| *lock).collect();
    let mut left_out = HashSet::new();
    while let Some(lock) = beginnings.pop() {
        left_out.insert(lock);
        for to in next.remove(lock).into_iter().flatten() {
            if let Some(count) = leading_to.get_mut(to) {
                *count -= 1;
                if *count == 0 {
                    beginnings.push(to);
                }
            }
        }
    }
    edges.into_iter().filter(|(from, _)| !left_out.contains(from)).collect()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            found(vec![in_order("ab"), in_order("bc"), in_order("cd"), in_order("da")]),
            ["ab bc cd da"]
        );
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
}
