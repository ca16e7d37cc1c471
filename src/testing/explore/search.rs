//! Which schedule comes next.

use std::collections::{BTreeMap, BTreeSet};

use super::run::Choice;

/// The beginnings of schedules that were seen to be possible and have not been run.
///
/// Those with the fewest preemptions come first, because most bugs need few and the simplest example of one is the one to
/// read; among them it is a
/// depth-first search, with the first client in front.
#[derive(Debug)]
pub(super) struct Search {
    pending: BTreeMap<usize, BTreeSet<Vec<usize>>>,
    most_preemptions: usize,
    /// Something was left out because it takes more preemptions than were asked for.
    pub(super) left_out: bool,
}

impl Search {
    pub(super) fn new(most_preemptions: usize) -> Self {
        Self {
            pending: BTreeMap::from([(0, BTreeSet::from([Vec::new()]))]),
            most_preemptions,
            left_out: false,
        }
    }

    /// The next schedule's beginning, and how many preemptions it has.
    pub(super) fn next(&mut self) -> Option<(Vec<usize>, usize)> {
        let mut fewest = self.pending.first_entry()?;
        let preemptions = *fewest.key();
        let next = fewest.get_mut().pop_first()?;
        if fewest.get().is_empty() {
            fewest.remove();
        }
        Some((next, preemptions))
    }

    /// Notes what else could have been done after the first `known` choices of a schedule, which had so many preemptions.
    pub(super) fn learn(&mut self, choices: &[Choice], known: usize, preemptions: usize) {
        let taken: Vec<usize> = choices.iter().map(|choice| choice.chosen).collect();
        for (i, choice) in choices.iter().enumerate().skip(known) {
            for other in choice.ready.iter().filter(|other| **other != choice.chosen) {
                let preemptions = preemptions + usize::from(choice.interrupted.is_some());
                if preemptions > self.most_preemptions {
                    self.left_out = true;
                    continue;
                }
                let mut beginning = taken[..i].to_vec();
                beginning.push(*other);
                self.pending.entry(preemptions).or_default().insert(beginning);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs clients with so many steps each, none of which waits for another.
    fn all(clients: &[usize], most_preemptions: usize) -> Vec<(Vec<usize>, usize)> {
        let mut search = Search::new(most_preemptions);
        let mut found = Vec::new();
        while let Some((beginning, preemptions)) = search.next() {
            let mut left = clients.to_vec();
            let mut last: Option<usize> = None;
            let mut choices = Vec::new();
            while left.iter().any(|steps| *steps > 0) {
                let ready: Vec<usize> = (0..left.len()).filter(|client| left[*client] > 0).collect();
                let interrupted = last.filter(|last| ready.contains(last));
                let usual = interrupted.unwrap_or(ready[0]);
                let chosen = beginning.get(choices.len()).copied().unwrap_or(usual);
                left[chosen] -= 1;
                last = Some(chosen);
                choices.push(Choice { ready, chosen, interrupted });
            }
            search.learn(&choices, beginning.len(), preemptions);
            found.push((choices.iter().map(|choice| choice.chosen).collect(), preemptions));
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
