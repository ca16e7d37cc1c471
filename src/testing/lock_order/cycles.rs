//! Transactions that may wait for each other in a circle.
//!
//! A transaction that holds some locks and asks for another one may wait for whoever holds that. A circle of
//! such waits is a deadlock to come, unless two of the transactions cannot be at it at the same time: because
//! they certainly hold, at that point, a lock that keeps the other one out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::row_lock::Strength;

use super::trace::{Lock, Taken, Trace, conflict, covers};

/// A place in a trace at which a lock is asked for while others are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wait {
    trace: usize,
    place: usize,
}

/// One transaction's part in a circle: it holds the first and asks for the second.
pub(super) type Part<'t> = (&'t Taken, &'t Taken);

/// For each wait that is part of a circle, a shortest one; each circle of the same statements once, and none
/// that a shorter one with the same wait in it explains. Shortest first.
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

    /// A shortest circle that begins here. Each wait is reached once, by a shortest way; where a gate closes
    /// that way further on, a longer one around it is not tried.
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
mod tests;
