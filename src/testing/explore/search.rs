//! The order in which schedules are explored.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::driver::{Choice, Prefix};
use super::persistent::PersistentSets;

/// The prefixes of schedules that were found to be possible and have not been run.
///
/// Prefixes with the fewest preemptions come first, because most bugs need few and the simplest
/// counterexample is the easiest to read. Among those it is a depth-first search, in the order of the
/// clients.
#[derive(Debug)]
pub(super) struct Search {
    pending: BTreeMap<usize, BTreeMap<Vec<usize>, Arc<[Choice]>>>,
    /// The digests of states that were reached. If preemptions are limited, each comes with the client whose
    /// interruption would be a preemption.
    visited: HashSet<(u64, Option<usize>)>,
    max_preemptions: usize,
    /// Tells which alternatives have to be run, instead of all those to states that were not visited.
    persistent: Option<PersistentSets>,
    /// Whether a prefix was left out because it has more preemptions than allowed.
    pub(super) is_limited: bool,
}

impl Search {
    /// Leaves out what `persistent` sets show to be equivalent, unless preemptions are limited: an equivalent
    /// schedule may have more of them.
    pub(super) fn new(max_preemptions: usize, persistent: Option<PersistentSets>) -> Self {
        Self {
            pending: BTreeMap::from([(0, BTreeMap::from([(Vec::new(), Arc::default())]))]),
            visited: HashSet::new(),
            max_preemptions,
            persistent: persistent.filter(|_| max_preemptions == usize::MAX),
            is_limited: false,
        }
    }

    /// Whether prefixes come in the order of their preemptions.
    pub(super) const fn is_sorted(&self) -> bool {
        self.persistent.is_none()
    }

    /// Takes the next prefix.
    pub(super) fn next(&mut self) -> Option<Prefix> {
        if self.pending.is_empty()
            && let Some(sets) = &mut self.persistent
        {
            for Prefix { steps, preemptions, choices } in sets.missing() {
                self.pending.entry(preemptions).or_default().insert(steps, choices);
            }
        }
        let mut fewest = self.pending.first_entry()?;
        let preemptions = *fewest.key();
        let (steps, choices) = fewest.get_mut().pop_first()?;
        if fewest.get().is_empty() {
            fewest.remove();
        }
        Some(Prefix { steps, preemptions, choices })
    }

    /// Adds the alternatives to each choice that a schedule made after its prefix, up to the first state that
    /// an earlier schedule has reached; with persistent sets, those alternatives are found when none is left.
    pub(super) fn learn(&mut self, choices: &Arc<[Choice]>, prefix: &Prefix) {
        if let Some(sets) = &mut self.persistent {
            sets.record(choices, prefix);
            return;
        }
        let taken: Vec<usize> = choices.iter().map(|choice| choice.chosen).collect();
        let is_counting = self.max_preemptions != usize::MAX;
        for (i, choice) in choices.iter().enumerate().skip(prefix.steps.len()) {
            if !self.visited.insert((choice.digest, choice.interrupted.filter(|_| is_counting))) {
                break;
            }
            for other in choice.ready.iter().filter(|other| **other != choice.chosen) {
                let preemptions = prefix.preemptions
                    + usize::from(choice.interrupted.is_some())
                    + usize::from(choice.early_retries.contains(other));
                if preemptions > self.max_preemptions {
                    self.is_limited = true;
                    continue;
                }
                let mut steps = taken[..i].to_vec();
                steps.push(*other);
                self.pending.entry(preemptions).or_default().insert(steps, choices.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All schedules of clients with this many steps each, none of which waits for another, with their
    /// preemptions.
    fn all(clients: &[usize], max_preemptions: usize) -> Vec<(Vec<usize>, usize)> {
        let mut search = Search::new(max_preemptions, None);
        let mut found = Vec::new();
        while let Some(next) = search.next() {
            let mut left = clients.to_vec();
            let mut last: Option<usize> = None;
            let mut choices = Vec::new();
            while left.iter().any(|steps| *steps > 0) {
                let ready: Vec<usize> = (0..left.len()).filter(|client| left[*client] > 0).collect();
                let interrupted = last.filter(|last| ready.contains(last));
                let default = interrupted.unwrap_or(ready[0]);
                let chosen = next.steps.get(choices.len()).copied().unwrap_or(default);
                left[chosen] -= 1;
                last = Some(chosen);
                let digest = found.len() as u64 * 1000 + choices.len() as u64;
                choices.push(Choice { ready, chosen, interrupted, digest, ..Choice::default() });
            }
            let choices: Arc<[Choice]> = choices.into();
            search.learn(&choices, &next);
            found.push((choices.iter().map(|choice| choice.chosen).collect(), next.preemptions));
        }
        found
    }

    #[test]
    fn finds_every_interleaving_once() {
        let mut found = all(&[4, 4], usize::MAX);
        assert_eq!(found.len(), 70, "8 over 4");
        assert!(found.is_sorted_by_key(|(_, preemptions)| *preemptions));
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 70);
        assert_eq!(all(&[2, 2, 2], usize::MAX).len(), 90);
    }

    #[test]
    fn limits_preemptions() {
        assert_eq!(all(&[4, 4], 0).len(), 2);
        // Either client first, interrupted before its second, third or fourth step.
        assert_eq!(all(&[4, 4], 1).len(), 2 + 2 * 3);
    }
}
