//! Which clients have to take a step in a state, so that no outcome is missed.
//!
//! It is enough to continue from a state with the clients of a *persistent set* (Godefroid 1996): if no other
//! client can ever take a step that affects theirs before they move, then every schedule is equivalent to one
//! that goes on with one of them. Which steps other clients can take is learned from the schedules that were
//! run: a client is added to the set of a state as soon as one of its later steps is seen to affect the step
//! of a member. When no set grows any more, all sets are persistent: a step that contradicts it would also be
//! possible after the member's step, where it would have been seen.
//!
//! That argument needs states that do not repeat, so it ends where a unit is retried.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::driver::{Choice, Prefix};
use super::independence::{Independence, StepClass};

/// A set of step classes, by their numbers.
type ClassSet = Vec<u64>;

/// The states that were reached, and the steps that were taken there.
#[derive(Debug)]
pub(super) struct PersistentSets {
    independence: Arc<Independence>,
    states: HashMap<u64, ReachedState>,
    classes: Classes,
    /// Whether a unit was retried: then all clients take a step in every state.
    has_retries: bool,
}

#[derive(Debug)]
struct ReachedState {
    /// The schedule that reached it first, how many steps that took, and with how many preemptions.
    choices: Arc<[Choice]>,
    at: usize,
    preemptions: usize,
    /// The steps that were taken, by client, with the states that they led to.
    taken: BTreeMap<usize, TakenStep>,
    /// The clients whose steps were requested.
    requested: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct TakenStep {
    classes: ClassSet,
    to: BTreeSet<u64>,
}

impl PersistentSets {
    pub(super) fn new(independence: Arc<Independence>) -> Self {
        let (states, classes) = (HashMap::new(), Classes::default());
        Self { independence, states, classes, has_retries: false }
    }

    /// Records the steps of a schedule and the states that it went through.
    pub(super) fn record(&mut self, choices: &Arc<[Choice]>, prefix: &Prefix) {
        for (at, choice) in choices.iter().enumerate() {
            self.has_retries |= choice.retries;
            let state = self.states.entry(choice.digest).or_insert_with(|| ReachedState {
                choices: choices.clone(),
                at,
                preemptions: prefix.preemptions,
                taken: BTreeMap::new(),
                requested: BTreeSet::new(),
            });
            state.requested.insert(choice.chosen);
            let taken = state.taken.entry(choice.chosen).or_default();
            for class in &choice.classes {
                add(&mut taken.classes, self.classes.number(class, &self.independence));
            }
            taken.to.extend(choices.get(at + 1).map(|next| next.digest));
        }
    }

    /// The beginnings of schedules that have to be run as well.
    pub(super) fn missing(&mut self) -> Vec<Prefix> {
        let later = if self.has_retries { None } else { self.later_steps() };
        let mut missing = Vec::new();
        for (digest, state) in &mut self.states {
            let choice = &state.choices[state.at];
            let later = later.as_ref().and_then(|later| later.get(digest));
            let members = match later {
                Some(later) => self.classes.members(choice, state, later),
                None => choice.ready.iter().copied().collect(),
            };
            for client in members {
                if state.requested.insert(client) {
                    missing.push(state.prefix(client));
                }
            }
        }
        missing
    }

    /// The steps that were taken in each state and in those after it. `None` if a state comes after itself.
    fn later_steps(&self) -> Option<HashMap<u64, ClassSet>> {
        let mut later: HashMap<u64, ClassSet> = HashMap::new();
        let mut entered = BTreeSet::new();
        let mut path: Vec<u64> = self.states.keys().copied().collect();
        while let Some(digest) = path.last().copied() {
            let Some(state) = self.states.get(&digest).filter(|_| !later.contains_key(&digest)) else {
                path.pop();
                continue;
            };
            let next = state.taken.values().flat_map(|taken| &taken.to);
            let unknown: Vec<u64> = next.clone().filter(|to| !later.contains_key(to)).copied().collect();
            if unknown.is_empty() {
                let mut steps = ClassSet::new();
                state.taken.values().for_each(|taken| unite(&mut steps, &taken.classes));
                next.filter_map(|to| later.get(to)).for_each(|after| unite(&mut steps, after));
                later.insert(digest, steps);
                path.pop();
            } else if entered.insert(digest) {
                path.extend(unknown);
            } else {
                return None;
            }
        }
        Some(later)
    }
}

impl ReachedState {
    /// The schedule that reaches this state and goes on with a step of this client.
    fn prefix(&self, client: usize) -> Prefix {
        let choice = &self.choices[self.at];
        let mut steps: Vec<usize> = self.choices[..self.at].iter().map(|choice| choice.chosen).collect();
        steps.push(client);
        let preemptions = self.preemptions
            + usize::from(choice.interrupted.is_some())
            + usize::from(choice.early_retries.contains(&client));
        Prefix { steps, preemptions, choices: self.choices.clone() }
    }
}

/// The kinds of steps that were seen. Each has a number.
#[derive(Debug, Default)]
struct Classes {
    numbers: HashMap<StepClass, usize>,
    all: Vec<StepClass>,
    /// For each class, those that depend on it.
    dependent: Vec<ClassSet>,
    of_clients: BTreeMap<usize, ClassSet>,
}

impl Classes {
    fn number(&mut self, class: &StepClass, independence: &Independence) -> usize {
        if let Some(number) = self.numbers.get(class) {
            return *number;
        }
        let number = self.all.len();
        self.numbers.insert(class.clone(), number);
        self.all.push(class.clone());
        self.dependent.push(ClassSet::new());
        for (other, earlier) in self.all.iter().enumerate() {
            if !independence.never_affect_each_other(earlier, class) {
                add(&mut self.dependent[other], number);
                add(&mut self.dependent[number], other);
            }
        }
        add(self.of_clients.entry(class.client).or_default(), number);
        number
    }

    /// The smallest set that is known to be persistent as far as its members have taken their steps.
    fn members(&self, choice: &Choice, state: &ReachedState, later: &ClassSet) -> BTreeSet<usize> {
        let sets = state.taken.keys().map(|first| self.closure(*first, choice, state, later));
        let is_new = |client: &&usize| !state.requested.contains(client);
        sets.min_by_key(|set| set.iter().filter(is_new).count()).unwrap_or_default()
    }

    /// Adds to a client those whose later steps affect the step of a member.
    fn closure(
        &self,
        first: usize,
        choice: &Choice,
        state: &ReachedState,
        later: &ClassSet,
    ) -> BTreeSet<usize> {
        let mut members = BTreeSet::from([first]);
        loop {
            let before = members.len();
            let taken = members.iter().filter_map(|member| state.taken.get(member));
            let mut affected = ClassSet::new();
            for class in taken.flat_map(|taken| numbers(&taken.classes)) {
                unite(&mut affected, &self.dependent[class]);
            }
            for (client, own) in self.of_clients.iter().filter(|(client, _)| !members.contains(client)) {
                if !intersect(own, &affected, later) || choice.waits_for_one_of(*client, &members) {
                    continue;
                }
                if !choice.ready.contains(client) {
                    // It waits, and any other client may let it go on.
                    return choice.ready.iter().copied().collect();
                }
                members.insert(*client);
                break;
            }
            if members.len() == before {
                return members;
            }
        }
    }
}

fn add(set: &mut ClassSet, number: usize) {
    set.resize(set.len().max(number / 64 + 1), 0);
    set[number / 64] |= 1 << (number % 64);
}

fn unite(set: &mut ClassSet, other: &ClassSet) {
    set.resize(set.len().max(other.len()), 0);
    set.iter_mut().zip(other).for_each(|(set, other)| *set |= other);
}

fn numbers(set: &ClassSet) -> impl Iterator<Item = usize> {
    let bits = set.iter().enumerate();
    bits.flat_map(|(word, bits)| {
        (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
    })
}

fn intersect(one: &ClassSet, two: &ClassSet, three: &ClassSet) -> bool {
    one.iter().zip(two).zip(three).any(|((one, two), three)| one & two & three != 0)
}
