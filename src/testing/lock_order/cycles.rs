//! Finds cycles of transactions that may wait for each other.
//!
//! A transaction that holds some locks and requests another one may wait for the transaction that holds it. A
//! cycle of such waits is a potential deadlock, unless two of the transactions can never be there at the same
//! time, because both certainly hold a lock at that point that excludes the other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::row_lock::Strength;

use super::effect::Lock;
use super::report::{AcquisitionOrder, Inversion, Locked};
use super::trace::{Taken, Trace, conflict, covers};

/// The position in a trace at which a lock is requested while others are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wait {
    trace: usize,
    index: usize,
}

/// The part of a transaction in a cycle: it holds the first lock and requests the second.
pub(super) type Part<'t> = (&'t Taken, &'t Taken);

/// A shortest cycle for each wait that is part of one, the shortest cycles first.
///
/// Cycles of the same statements are returned once, and cycles with a wait that is also part of a shorter
/// cycle are left out.
pub(super) fn cycles(traces: &[Arc<Trace>]) -> Vec<Vec<Part<'_>>> {
    let waits = Waits::of(traces);
    let mut found: Vec<Vec<Wait>> = waits.all.iter().filter_map(|wait| waits.cycle_from(*wait)).collect();
    found.sort_by_key(Vec::len);
    let (mut explained, mut reported, mut cycles) = (HashMap::new(), HashSet::new(), Vec::new());
    for cycle in found {
        if cycle.iter().any(|wait| explained.get(wait).is_some_and(|length| *length < cycle.len())) {
            continue;
        }
        for wait in &cycle {
            explained.entry(*wait).or_insert(cycle.len());
        }
        let parts = waits.parts(&cycle);
        let mut statements: Vec<_> =
            parts.iter().map(|(held, wanted)| (&held.statement.sql, &wanted.statement.sql)).collect();
        statements.sort();
        if reported.insert(statements) {
            cycles.push(parts);
        }
    }
    cycles
}

/// The report of a cycle.
pub(super) fn inversion(parts: &[Part<'_>]) -> Inversion {
    let locked = |taken: &Taken| Locked {
        lock: taken.lock.to_string(),
        statement: taken.statement.with_values.to_string(),
    };
    let orders =
        parts.iter().map(|(held, wanted)| AcquisitionOrder { first: locked(held), then: locked(wanted) });
    Inversion { orders: orders.collect() }
}

struct Waits<'t> {
    traces: &'t [Arc<Trace>],
    all: Vec<Wait>,
    /// The waits at which each lock is held.
    holding: HashMap<&'t Lock, Vec<Wait>>,
}

impl<'t> Waits<'t> {
    fn of(traces: &'t [Arc<Trace>]) -> Self {
        let suspects = suspects(traces);
        let mut waits = Self { traces, all: Vec::new(), holding: HashMap::new() };
        for (number, trace) in traces.iter().enumerate() {
            for (index, wanted) in trace.0.iter().enumerate() {
                if !wanted.waits || !suspects.contains(&wanted.lock) {
                    continue;
                }
                let wait = Wait { trace: number, index };
                let held: HashSet<&Lock> = trace.held_at(index).map(|held| &held.lock).collect();
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
        &self.traces[wait.trace].0[wait.index]
    }

    fn held(&self, wait: Wait) -> HashMap<&'t Lock, Strength> {
        Self::strongest(self.traces[wait.trace].held_at(wait.index))
    }

    /// The locks that are certainly held.
    fn certainly_held(&self, wait: Wait) -> HashMap<&'t Lock, Strength> {
        let held = self.traces[wait.trace].held_at(wait.index);
        Self::strongest(held.filter(|held| held.is_certain_at(wait.index)))
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

    /// A shortest cycle that begins with this wait. Each wait is reached once, by a shortest path. If a gate
    /// rules that path out further on, longer paths are not tried.
    fn cycle_from(&self, start: Wait) -> Option<Vec<Wait>> {
        let mut reached = HashSet::from([start]);
        let mut chains = VecDeque::from([vec![start]]);
        while let Some(chain) = chains.pop_front() {
            let wanted = self.wanted(*chain.last()?);
            for next in self.holding.get(&wanted.lock).into_iter().flatten() {
                let held = self.held(*next);
                let is_blocking =
                    held.get(&wanted.lock).is_some_and(|strength| conflict(*strength, wanted.strength));
                if !is_blocking {
                    continue;
                }
                if *next == start {
                    // A single wait is a cycle if two transactions can be at it at the same time.
                    if chain.len() > 1 || self.can_meet(*next, start) {
                        return Some(chain);
                    }
                } else if !reached.contains(next) && chain.iter().all(|wait| self.can_meet(*next, *wait)) {
                    reached.insert(*next);
                    chains.push_back(chain.iter().copied().chain([*next]).collect());
                }
            }
        }
        None
    }

    /// Whether two transactions can be at these waits at the same time.
    fn can_meet(&self, one: Wait, other: Wait) -> bool {
        let others = self.certainly_held(other);
        !self
            .certainly_held(one)
            .iter()
            .any(|(lock, one)| others.get(lock).is_some_and(|other| conflict(*one, *other)))
    }

    /// For each transaction of a cycle, the lock that the previous one requests from it and the lock that it
    /// requests itself.
    fn parts(&self, cycle: &[Wait]) -> Vec<Part<'t>> {
        let before = cycle.iter().cycle().skip(cycle.len().saturating_sub(1));
        before
            .zip(cycle)
            .filter_map(|(before, wait)| {
                let lock = &self.wanted(*before).lock;
                let held = self.traces[wait.trace].held_at(wait.index).find(|held| held.lock == *lock)?;
                Some((held, self.wanted(*wait)))
            })
            .collect()
    }
}

/// The locks that may be part of a cycle; none if all transactions keep one order. This keeps the search
/// fast.
fn suspects(traces: &[Arc<Trace>]) -> HashSet<&Lock> {
    let mut edges = HashSet::new();
    for trace in traces {
        // Edges from each group of locks to the next one suffice, because paths lead to the later ones.
        let steps: Vec<&[Taken]> = trace.0.chunk_by(|one, next| one.group == next.group).collect();
        for (step, next) in steps.iter().zip(steps.iter().skip(1)) {
            for held in *step {
                edges.extend(next.iter().map(|wanted| (&held.lock, &wanted.lock)));
            }
        }
    }
    let backwards = |edges: Vec<(_, _)>| edges.into_iter().map(|(from, to)| (to, from)).collect();
    let edges = without_sources(edges.into_iter().collect());
    let edges = without_sources(backwards(edges));
    edges.into_iter().flat_map(|(from, to)| [from, to]).collect()
}

/// Removes the nodes without incoming edges, repeatedly.
fn without_sources<'t>(edges: Vec<(&'t Lock, &'t Lock)>) -> Vec<(&'t Lock, &'t Lock)> {
    let mut incoming: HashMap<&Lock, usize> = HashMap::new();
    let mut next: HashMap<&Lock, Vec<&Lock>> = HashMap::new();
    for (from, to) in &edges {
        incoming.entry(from).or_default();
        *incoming.entry(to).or_default() += 1;
        next.entry(from).or_default().push(to);
    }
    let mut sources: Vec<&Lock> =
        incoming.iter().filter(|(_, count)| **count == 0).map(|(lock, _)| *lock).collect();
    let mut removed = HashSet::new();
    while let Some(lock) = sources.pop() {
        removed.insert(lock);
        for to in next.remove(lock).into_iter().flatten() {
            if let Some(count) = incoming.get_mut(to) {
                *count -= 1;
                if *count == 0 {
                    sources.push(to);
                }
            }
        }
    }
    edges.into_iter().filter(|(from, _)| !removed.contains(from)).collect()
}

#[cfg(test)]
mod tests;
