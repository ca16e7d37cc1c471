//! Which schedule comes next.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::run::Choice;

/// The beginnings of schedules that were seen to be possible and have not been run.
///
/// Those with the fewest preemptions come first, because most bugs need few and the simplest example of one
/// is the one to read; among them it is a depth-first search, with the first client in front.
#[derive(Debug)]
pub(super) struct Search {
    pending: BTreeMap<usize, BTreeMap<Vec<usize>, Arc<[Choice]>>>,
    /// What schedules have come to, with what would cost a preemption there, where those are counted.
    known: HashSet<(u64, Option<usize>)>,
    max_preemptions: usize,
    /// Something was left out because it takes more preemptions than were asked for.
    pub(super) left_out: bool,
}

/// How a schedule is to begin.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) steps: Vec<usize>,
    pub(super) preemptions: usize,
    /// The choices of the schedule that it is like, but for its last step.
    pub(super) before: Arc<[Choice]>,
}

impl Search {
    pub(super) fn new(max_preemptions: usize) -> Self {
        Self {
            pending: BTreeMap::from([(0, BTreeMap::from([(Vec::new(), Arc::default())]))]),
            known: HashSet::new(),
            max_preemptions,
            left_out: false,
        }
    }

    /// The next schedule's beginning.
    pub(super) fn next(&mut self) -> Option<Beginning> {
        let mut fewest = self.pending.first_entry()?;
        let preemptions = *fewest.key();
        let (steps, before) = fewest.get_mut().pop_first()?;
        if fewest.get().is_empty() {
            fewest.remove();
        }
        Some(Beginning { steps, preemptions, before })
    }

    /// Notes what else could have been done behind the beginning of a schedule, up to where it came to what
    /// an earlier one had come to.
    pub(super) fn learn(&mut self, choices: &Arc<[Choice]>, beginning: &Beginning) {
        let taken: Vec<usize> = choices.iter().map(|choice| choice.chosen).collect();
        let counts = self.max_preemptions != usize::MAX;
        for (i, choice) in choices.iter().enumerate().skip(beginning.steps.len()) {
            if !self.known.insert((choice.progress, choice.interrupted.filter(|_| counts))) {
                break;
            }
            for other in choice.ready.iter().filter(|other| **other != choice.chosen) {
                let preemptions = beginning.preemptions
                    + usize::from(choice.interrupted.is_some())
                    + usize::from(choice.hasty.contains(other));
                if preemptions > self.max_preemptions {
                    self.left_out = true;
                    continue;
                }
                let mut beginning = taken[..i].to_vec();
                beginning.push(*other);
                self.pending.entry(preemptions).or_default().insert(beginning, choices.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs clients with so many steps each, none of which waits for another.
    fn all(clients: &[usize], max_preemptions: usize) -> Vec<(Vec<usize>, usize)> {
        let mut search = Search::new(max_preemptions);
        let mut found = Vec::new();
        while let Some(next) = search.next() {
            let mut left = clients.to_vec();
            let mut last: Option<usize> = None;
            let mut choices = Vec::new();
            while left.iter().any(|steps| *steps > 0) {
                let ready: Vec<usize> = (0..left.len()).filter(|client| left[*client] > 0).collect();
                let interrupted = last.filter(|last| ready.contains(last));
                let usual = interrupted.unwrap_or(ready[0]);
                let chosen = next.steps.get(choices.len()).copied().unwrap_or(usual);
                left[chosen] -= 1;
                last = Some(chosen);
                let progress = found.len() as u64 * 1000 + choices.len() as u64;
                let (hasty, view) = (Vec::new(), Vec::new());
                choices.push(Choice { ready, chosen, interrupted, hasty, view, progress });
            }
            let choices: Arc<[Choice]> = choices.into();
            search.learn(&choices, &next);
            found.push((choices.iter().map(|choice| choice.chosen).collect(), next.preemptions));
        }
        found
    }

    #[test]
    fn every_interleaving_comes_once() {
        let mut found = all(&[4, 4], usize::MAX);
        assert_eq!(found.len(), 70, "8 over 4");
        assert!(found.is_sorted_by_key(|(_, preemptions)| *preemptions));
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 70);
        assert_eq!(all(&[2, 2, 2], usize::MAX).len(), 90);
    }

    #[test]
    fn preemptions_are_bounded() {
        assert_eq!(all(&[4, 4], 0).len(), 2);
        // Either client first, interrupted before its second, third or fourth step.
        assert_eq!(all(&[4, 4], 1).len(), 2 + 2 * 3);
    }
}
