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
const MOST_KEYS: usize = 256;

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

    /// Nobody minds an answer that nobody waits for.
    pub(super) fn answer(self, answer: Result<DeltaOutcome, Error>) {
        let _ = self.answer.send(answer);
    }
}

/// The calls that no batch has yet, in the order of their arrival.
pub(super) struct Queue<K> {
    waiting: VecDeque<Call<K>>,
    /// The keys that are on their way.
    busy: BTreeSet<K>,
    flights: usize,
    next_ticket: u64,
}

impl<K: Ord + Clone> Queue<K> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), busy: BTreeSet::new(), flights: 0, next_ticket: 0 }
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
        let starts = self.flights < settings.flights && !self.busy.contains(&call.key);
        self.flights += usize::from(starts);
        call.ticket = self.next_ticket;
        self.next_ticket += 1;
        let ticket = call.ticket;
        self.waiting.push_back(call);
        Ok((ticket, starts))
    }

    /// Takes a call back that no batch has yet.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Call<K>> {
        let place = self.waiting.binary_search_by_key(&ticket, |call| call.ticket).ok()?;
        self.waiting.remove(place)
    }

    /// The calls of the next batch, whose keys are `keys` from then on: all that wait, but for those whose key is on its way
    /// or one too many. `None` when there is none, and the flight is over.
    pub(super) fn depart(&mut self, keys: &mut BTreeSet<K>) -> Option<Vec<Call<K>>> {
        self.land(keys);
        let (mut calls, mut left) = (Vec::with_capacity(self.waiting.len()), VecDeque::new());
        for call in self.waiting.drain(..) {
            let fits = keys.contains(&call.key)
                || (!self.busy.contains(&call.key)
                    && keys.len() < MOST_KEYS
                    && keys.insert(call.key.clone()));
            if fits { calls.push(call) } else { left.push_back(call) }
        }
        self.waiting = left;
        self.busy.extend(keys.iter().cloned());
        if calls.is_empty() {
            self.flights -= 1;
            return None;
        }
        Some(calls)
    }

    fn land(&mut self, keys: &mut BTreeSet<K>) {
        for key in std::mem::take(keys) {
            self.busy.remove(&key);
        }
    }

    /// A flight ended that was not over. Where it was the last one, answers the calls that nobody serves any more.
    pub(super) fn crash(&mut self, keys: &mut BTreeSet<K>) -> VecDeque<Call<K>> {
        self.land(keys);
        self.flights -= 1;
        if self.flights == 0 { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }
}
