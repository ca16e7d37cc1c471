//! The calls that wait: plain data behind a lock that nobody waits for long.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;
use crate::failure::{Failure, FailureKind};

use super::{DeltaOutcome, Settings};

/// How many keys a batch has at most: what their statement and their locks may cost.
const MAX_KEYS: usize = 256;

/// One call, and where its answer goes.
pub(super) struct Call<K> {
    pub(super) key: K,
    pub(super) delta: i64,
    pub(super) deadline: Instant,
    ticket: u64,
    /// Set by whoever comes first: the batch that decides about the call, or the caller that gives up.
    taken: Arc<AtomicBool>,
    /// It was the batch.
    ours: bool,
    answer: oneshot::Sender<Result<DeltaOutcome, Error>>,
}

impl<K> Call<K> {
    pub(super) fn new(
        key: K,
        delta: i64,
        deadline: Instant,
        taken: Arc<AtomicBool>,
        answer: oneshot::Sender<Result<DeltaOutcome, Error>>,
    ) -> Self {
        Self { key, delta, deadline, ticket: 0, taken, ours: false, answer }
    }

    /// Whether the caller still waits.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Takes the call, unless its caller has given up.
    pub(super) fn take(&mut self) -> bool {
        self.ours = self.ours || (self.is_wanted() && !self.taken.swap(true, Ordering::AcqRel));
        self.ours && self.is_wanted()
    }

    /// As it was before it was [taken](Self::take): nothing was stored.
    pub(super) fn given_back(self) -> Self {
        if self.ours {
            self.taken.store(false, Ordering::Release);
        }
        Self { ours: false, ..self }
    }

    /// Nobody minds an answer that nobody waits for.
    pub(super) fn answer(self, answer: Result<DeltaOutcome, Error>) {
        let _ = self.answer.send(answer);
    }
}

/// Where a flight is.
pub(super) struct BatchKeys<K> {
    /// Those of its batch.
    keys: BTreeSet<K>,
    pub(super) is_late: bool,
}

// Not derived: that would ask for `K: Default`.
impl<K> Default for BatchKeys<K> {
    fn default() -> Self {
        Self { keys: BTreeSet::new(), is_late: false }
    }
}

/// The calls that no batch has yet, in the order of their arrival.
pub(super) struct Pending<K> {
    waiting: VecDeque<Call<K>>,
    /// The keys that are on their way.
    busy: BTreeSet<K>,
    max_batches: usize,
    /// Those of them that take long.
    late: usize,
    next_ticket: u64,
}

impl<K: Ord + Clone> Pending<K> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), busy: BTreeSet::new(), max_batches: 0, late: 0, next_ticket: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Answers the ticket to leave with, and whether a flight is to be started.
    pub(super) fn push(&mut self, mut call: Call<K>, settings: &Settings) -> Result<(u64, bool), Error> {
        if self.waiting.len() >= settings.capacity {
            let message = format!("{} calls wait already", self.waiting.len());
            return Err(Error::failed(Failure::new(FailureKind::Overloaded, message).retryable(true), None));
        }
        let starts = self.may_start(settings) && !self.busy.contains(&call.key);
        self.max_batches += usize::from(starts);
        call.ticket = self.next_ticket;
        self.next_ticket += 1;
        let ticket = call.ticket;
        self.waiting.push_back(call);
        Ok((ticket, starts))
    }

    /// Whether a further flight is of use. Two at a time, where one would do, share out the calls and take
    /// two commits.
    fn may_start(&self, settings: &Settings) -> bool {
        self.max_batches < settings.max_batches && self.late == self.max_batches
    }

    /// A flight takes long. Answers whether another one is to be started.
    pub(super) fn is_late(&mut self, settings: &Settings) -> bool {
        self.late += 1;
        let starts =
            self.may_start(settings) && self.waiting.iter().any(|call| !self.busy.contains(&call.key));
        self.max_batches += usize::from(starts);
        starts
    }

    /// Takes a call back that no batch has yet.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Call<K>> {
        let place = self.waiting.binary_search_by_key(&ticket, |call| call.ticket).ok()?;
        self.waiting.remove(place)
    }

    /// The calls of the next batch of a flight that was at `stage`: all that wait, but for those whose key is
    /// on its way or one too many. `None` when there is none, or another flight is about to take them, and
    /// this one is over.
    pub(super) fn take_batch(&mut self, stage: &mut BatchKeys<K>) -> Option<Vec<Call<K>>> {
        self.finish_batch(stage);
        if self.max_batches - self.late > 1 {
            self.max_batches -= 1;
            return None;
        }
        let keys = &mut stage.keys;
        let (mut calls, mut left) = (Vec::with_capacity(self.waiting.len()), VecDeque::new());
        for call in self.waiting.drain(..) {
            let fits = keys.contains(&call.key)
                || (!self.busy.contains(&call.key) && keys.len() < MAX_KEYS && keys.insert(call.key.clone()));
            if fits { calls.push(call) } else { left.push_back(call) }
        }
        self.waiting = left;
        self.busy.extend(keys.iter().cloned());
        if calls.is_empty() {
            self.max_batches -= 1;
            return None;
        }
        Some(calls)
    }

    fn finish_batch(&mut self, stage: &mut BatchKeys<K>) {
        let BatchKeys { keys, is_late } = std::mem::take(stage);
        self.late -= usize::from(is_late);
        for key in keys {
            self.busy.remove(&key);
        }
    }

    /// A flight ended that was not over. Where it was the last one, answers the calls that nobody serves any
    /// more.
    pub(super) fn abandon(&mut self, stage: &mut BatchKeys<K>) -> VecDeque<Call<K>> {
        self.finish_batch(stage);
        self.max_batches -= 1;
        if self.max_batches == 0 { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::Target;
    use crate::transactor::Options;

    fn settings(flights: usize) -> Settings {
        Settings {
            target: Target { table: "product", key: "id", column: "stock" },
            bounds: i64::MIN..=i64::MAX,
            options: Options::new(),
            capacity: 100,
            max_batches: flights,
            persistent: true,
            single_statement: true,
        }
    }

    /// Calls for this key, and answers whether a flight is to be started.
    fn call(queue: &mut Pending<u32>, key: u32, settings: &Settings) -> bool {
        let (answer, _) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = Call::new(key, 1, deadline, Arc::default(), answer);
        queue.push(call, settings).expect("there is room").1
    }

    fn departs(queue: &mut Pending<u32>, stage: &mut BatchKeys<u32>) -> Option<Vec<u32>> {
        Some(queue.take_batch(stage)?.into_iter().map(|call| call.key).collect())
    }

    fn late(queue: &mut Pending<u32>, stage: &mut BatchKeys<u32>, settings: &Settings) -> bool {
        stage.is_late = true;
        queue.is_late(settings)
    }

    #[test]
    fn calls_wait_for_a_flight_that_is_in_time() {
        let (settings, mut queue, mut flight) = (settings(3), Pending::new(), BatchKeys::default());
        assert!(call(&mut queue, 1, &settings), "nobody flies");
        assert_eq!(departs(&mut queue, &mut flight), Some(vec![1]));
        assert!(!call(&mut queue, 2, &settings) && !call(&mut queue, 3, &settings));
        assert_eq!(departs(&mut queue, &mut flight), Some(vec![2, 3]));
        assert_eq!(departs(&mut queue, &mut flight), None);
        assert!(call(&mut queue, 4, &settings), "nobody flies");
    }

    #[test]
    fn another_flight_takes_what_would_wait_behind_a_late_one() {
        let (settings, mut queue) = (settings(2), Pending::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, &settings));
        assert_eq!(departs(&mut queue, &mut first), Some(vec![1]));
        assert!(!call(&mut queue, 1, &settings));
        assert!(!late(&mut queue, &mut first, &settings), "nobody waits that could go");
        assert!(!call(&mut queue, 1, &settings), "it could not go either");
        assert!(call(&mut queue, 2, &settings));
        assert_eq!(departs(&mut queue, &mut second), Some(vec![2]));
        assert!(!late(&mut queue, &mut second, &settings), "there is no third one");
        assert!(!call(&mut queue, 3, &settings));
        assert_eq!(departs(&mut queue, &mut first), Some(vec![1, 1, 3]));
    }

    #[test]
    fn those_who_wait_when_a_flight_gets_late_are_fetched() {
        let (settings, mut queue, mut first) = (settings(2), Pending::new(), BatchKeys::default());
        assert!(call(&mut queue, 1, &settings));
        assert_eq!(departs(&mut queue, &mut first), Some(vec![1]));
        assert!(!call(&mut queue, 2, &settings));
        assert!(late(&mut queue, &mut first, &settings));
        assert_eq!(departs(&mut queue, &mut BatchKeys::default()), Some(vec![2]));
    }

    /// Else two flights would share the calls for as long as there are any.
    #[test]
    fn of_two_flights_in_time_one_is_over() {
        let (settings, mut queue) = (settings(2), Pending::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, &settings));
        assert_eq!(departs(&mut queue, &mut first), Some(vec![1]));
        assert!(!late(&mut queue, &mut first, &settings));
        assert!(call(&mut queue, 2, &settings));
        assert_eq!(departs(&mut queue, &mut second), Some(vec![2]));
        assert!(!call(&mut queue, 3, &settings));
        assert_eq!(departs(&mut queue, &mut first), None, "the second one will take it");
        assert_eq!(departs(&mut queue, &mut second), Some(vec![3]));
        assert_eq!(departs(&mut queue, &mut second), None);
        assert!(call(&mut queue, 4, &settings), "nobody flies");
    }

    #[test]
    fn the_last_flight_that_crashes_strands_those_who_wait() {
        let (settings, mut queue) = (settings(2), Pending::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, &settings));
        assert_eq!(departs(&mut queue, &mut first), Some(vec![1]));
        late(&mut queue, &mut first, &settings);
        assert!(call(&mut queue, 2, &settings));
        assert_eq!(departs(&mut queue, &mut second), Some(vec![2]));
        assert!(!call(&mut queue, 1, &settings));
        assert!(queue.abandon(&mut first).is_empty(), "the second one will take it");
        assert_eq!(queue.abandon(&mut second).len(), 1);
        assert!(call(&mut queue, 1, &settings), "nobody flies");
    }
}
