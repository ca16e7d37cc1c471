//! The calls that wait for a batch: plain data behind a short-lived lock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::BatchLimits;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};

/// The maximum number of keys in a batch, which limits its statement and its locks.
const MAX_KEYS: usize = 256;

/// One call, and the channel for its result.
pub(crate) struct Call<K, R, O> {
    /// What calls of batches that run at the same time must not have in common.
    pub(crate) key: K,
    pub(crate) request: R,
    pub(crate) deadline: Instant,
    ticket: u64,
    /// Set by the batch that takes the call, or by the caller when it gives up, whichever comes first.
    taken: Arc<AtomicBool>,
    /// Whether a batch has set `taken`.
    is_ours: bool,
    sender: oneshot::Sender<Result<O, Error>>,
}

impl<K, R, O> Call<K, R, O> {
    pub(crate) fn new(
        key: K,
        request: R,
        deadline: Instant,
        taken: Arc<AtomicBool>,
        sender: oneshot::Sender<Result<O, Error>>,
    ) -> Self {
        Self { key, request, deadline, ticket: 0, taken, is_ours: false, sender }
    }

    /// Returns a number that grows with the arrival of the calls.
    #[cfg(feature = "holds")]
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Returns whether the caller still waits for the result.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Takes the call for a batch, and returns whether it is to be applied. From here on its caller cannot
    /// give up.
    pub(crate) fn take(&mut self) -> bool {
        self.is_ours = self.is_ours || (self.is_wanted() && !self.taken.swap(true, Ordering::AcqRel));
        self.is_ours && self.is_wanted()
    }

    /// Undoes [`take`](Self::take), after a batch that did not store the call.
    pub(crate) fn given_back(self) -> Self {
        if self.is_ours {
            self.taken.store(false, Ordering::Release);
        }
        Self { is_ours: false, ..self }
    }

    /// Sends the result to the caller, if it still waits.
    pub(crate) fn complete(self, result: Result<O, Error>) {
        let _ = self.sender.send(result);
    }
}

/// The keys of the batch that a batcher runs.
pub(super) struct BatchKeys<K> {
    keys: BTreeSet<K>,
    is_slow: bool,
}

// Not derived, because that would require `K: Default`.
impl<K> Default for BatchKeys<K> {
    fn default() -> Self {
        Self { keys: BTreeSet::new(), is_slow: false }
    }
}

/// The calls that no batch has taken, in the order of their arrival, and the count of batchers.
pub(super) struct Pending<K, R, O> {
    waiting: VecDeque<Call<K, R, O>>,
    /// The keys of the batches that run.
    busy: BTreeSet<K>,
    batchers: usize,
    /// How many of the batchers run a slow batch.
    slow: usize,
    next_ticket: u64,
}

impl<K: Ord + Clone, R, O> Pending<K, R, O> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), busy: BTreeSet::new(), batchers: 0, slow: 0, next_ticket: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a call. Returns the ticket to [withdraw](Self::withdraw) it with, and whether the caller has to
    /// start a batcher, which is counted already.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](FailureKind::Overloaded) if too many calls wait.
    pub(super) fn push(
        &mut self,
        mut call: Call<K, R, O>,
        limits: BatchLimits,
    ) -> Result<(u64, bool), Error> {
        if self.waiting.len() >= limits.capacity {
            let message = format!("{} calls are waiting already, which is the capacity", self.waiting.len());
            return Err(Error::failed(Failure::new(FailureKind::Overloaded, message).retryable(true), None));
        }
        let starts = self.may_start(limits) && !self.busy.contains(&call.key);
        self.batchers += usize::from(starts);
        call.ticket = self.next_ticket;
        self.next_ticket += 1;
        let ticket = call.ticket;
        self.waiting.push_back(call);
        Ok((ticket, starts))
    }

    /// Returns whether another batcher would help: only if all others are slow, because two batches of half
    /// the size would take two commits.
    fn may_start(&self, limits: BatchLimits) -> bool {
        self.batchers < limits.max_batches && self.slow == self.batchers
    }

    /// Marks the batch of a batcher as slow. Returns whether the caller has to start another batcher, which
    /// is counted already.
    pub(super) fn mark_slow(&mut self, keys: &mut BatchKeys<K>, limits: BatchLimits) -> bool {
        keys.is_slow = true;
        self.slow += 1;
        let starts = self.may_start(limits) && self.waiting.iter().any(|call| !self.busy.contains(&call.key));
        self.batchers += usize::from(starts);
        starts
    }

    /// Removes a call that no batch has taken.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Call<K, R, O>> {
        let position = self.waiting.binary_search_by_key(&ticket, |call| call.ticket).ok()?;
        self.waiting.remove(position)
    }

    /// Ends the batch with these keys, and returns the calls of the batcher's next batch: all waiting calls,
    /// except for those whose key is busy or beyond the maximum number of keys. Returns `None` if there are
    /// none or another batcher is about to take them; the batcher is then no longer counted, and ends.
    pub(super) fn take_batch(&mut self, batch: &mut BatchKeys<K>) -> Option<Vec<Call<K, R, O>>> {
        self.finish_batch(batch);
        if self.batchers - self.slow > 1 {
            self.batchers -= 1;
            return None;
        }
        let keys = &mut batch.keys;
        let (mut calls, mut left) = (Vec::with_capacity(self.waiting.len()), VecDeque::new());
        for call in self.waiting.drain(..) {
            let fits = keys.contains(&call.key)
                || (!self.busy.contains(&call.key) && keys.len() < MAX_KEYS && keys.insert(call.key.clone()));
            if fits { calls.push(call) } else { left.push_back(call) }
        }
        self.waiting = left;
        self.busy.extend(keys.iter().cloned());
        if calls.is_empty() {
            self.batchers -= 1;
            return None;
        }
        Some(calls)
    }

    fn finish_batch(&mut self, batch: &mut BatchKeys<K>) {
        let BatchKeys { keys, is_slow } = std::mem::take(batch);
        self.slow -= usize::from(is_slow);
        for key in keys {
            self.busy.remove(&key);
        }
    }

    /// Removes a batcher that ended early. If it was the last one, returns the calls that are left without
    /// a batcher.
    pub(super) fn abandon(&mut self, batch: &mut BatchKeys<K>) -> VecDeque<Call<K, R, O>> {
        self.finish_batch(batch);
        self.batchers -= 1;
        if self.batchers == 0 { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    type Queue = Pending<u32, (), ()>;

    fn limits(max_batches: usize) -> BatchLimits {
        BatchLimits { capacity: 100, max_batches }
    }

    /// Adds a call for this key, and returns whether a batcher is to be started.
    fn call(queue: &mut Queue, key: u32, limits: BatchLimits) -> bool {
        let (sender, _) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = Call::new(key, (), deadline, Arc::default(), sender);
        queue.push(call, limits).expect("there is room").1
    }

    fn take(queue: &mut Queue, batch: &mut BatchKeys<u32>) -> Option<Vec<u32>> {
        Some(queue.take_batch(batch)?.into_iter().map(|call| call.key).collect())
    }

    #[test]
    fn calls_wait_for_the_running_batch() {
        let (limits, mut queue, mut batch) = (limits(3), Queue::new(), BatchKeys::default());
        assert!(call(&mut queue, 1, limits), "there is no batcher");
        assert_eq!(take(&mut queue, &mut batch), Some(vec![1]));
        assert!(!call(&mut queue, 2, limits) && !call(&mut queue, 3, limits));
        assert_eq!(take(&mut queue, &mut batch), Some(vec![2, 3]));
        assert_eq!(take(&mut queue, &mut batch), None);
        assert!(call(&mut queue, 4, limits), "there is no batcher");
    }

    #[test]
    fn a_second_batcher_takes_the_calls_behind_a_slow_batch() {
        let (limits, mut queue) = (limits(2), Queue::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, limits));
        assert_eq!(take(&mut queue, &mut first), Some(vec![1]));
        assert!(!call(&mut queue, 1, limits));
        assert!(!queue.mark_slow(&mut first, limits), "no call waits that could be taken");
        assert!(!call(&mut queue, 1, limits), "it cannot be taken either");
        assert!(call(&mut queue, 2, limits));
        assert_eq!(take(&mut queue, &mut second), Some(vec![2]));
        assert!(!queue.mark_slow(&mut second, limits), "there may be no third batcher");
        assert!(!call(&mut queue, 3, limits));
        assert_eq!(take(&mut queue, &mut first), Some(vec![1, 1, 3]));
    }

    #[test]
    fn a_batch_that_turns_slow_starts_a_batcher_for_waiting_calls() {
        let (limits, mut queue, mut first) = (limits(2), Queue::new(), BatchKeys::default());
        assert!(call(&mut queue, 1, limits));
        assert_eq!(take(&mut queue, &mut first), Some(vec![1]));
        assert!(!call(&mut queue, 2, limits));
        assert!(queue.mark_slow(&mut first, limits));
        assert_eq!(take(&mut queue, &mut BatchKeys::default()), Some(vec![2]));
    }

    /// If a second batcher started, the two would share the calls, and take two commits for each batch.
    #[test]
    fn of_two_fast_batchers_one_ends() {
        let (limits, mut queue) = (limits(2), Queue::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, limits));
        assert_eq!(take(&mut queue, &mut first), Some(vec![1]));
        assert!(!queue.mark_slow(&mut first, limits));
        assert!(call(&mut queue, 2, limits));
        assert_eq!(take(&mut queue, &mut second), Some(vec![2]));
        assert!(!call(&mut queue, 3, limits));
        assert_eq!(take(&mut queue, &mut first), None, "the second batcher will take it");
        assert_eq!(take(&mut queue, &mut second), Some(vec![3]));
        assert_eq!(take(&mut queue, &mut second), None);
        assert!(call(&mut queue, 4, limits), "there is no batcher");
    }

    #[test]
    fn the_last_batcher_that_ends_early_returns_the_waiting_calls() {
        let (limits, mut queue) = (limits(2), Queue::new());
        let [mut first, mut second] = [BatchKeys::default(), BatchKeys::default()];
        assert!(call(&mut queue, 1, limits));
        assert_eq!(take(&mut queue, &mut first), Some(vec![1]));
        queue.mark_slow(&mut first, limits);
        assert!(call(&mut queue, 2, limits));
        assert_eq!(take(&mut queue, &mut second), Some(vec![2]));
        assert!(!call(&mut queue, 1, limits));
        assert!(queue.abandon(&mut first).is_empty(), "the second batcher will take it");
        assert_eq!(queue.abandon(&mut second).len(), 1);
        assert!(call(&mut queue, 1, limits), "there is no batcher");
    }
}
