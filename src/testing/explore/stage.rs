//! Where the clients of an exploration stand: each of its steps waits here until it is its turn.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::backend::LockWait;
use crate::intercept::{Next, Step, StepKind, TransactionToken};
use crate::sql_text::Syntax;

use super::log::{Entry, Log, Sent, Waited};
use super::view;

mod seat;

pub(super) use seat::Seat;

/// What all clients of one schedule share.
#[derive(Debug)]
pub(super) struct Stage(Mutex<State>);

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    syntax: Syntax,
    /// The transaction of each client that has not ended.
    open: Vec<TransactionToken>,
    log: Log,
    /// How many transactions have ended.
    ended: usize,
    /// How often a client came to stand somewhere else by itself.
    changes: usize,
    /// The schedule is over: whoever still has something to send does without its connection.
    closed: bool,
    /// A client that began a transaction while an earlier one of its own was open.
    side_by_side: Option<usize>,
    /// What ran as one step and may be several: whose it was, and what.
    unseen: Vec<(usize, String)>,
}

/// Where a client stands.
#[derive(Debug)]
pub(super) enum Place {
    /// At work, or waiting: for a lock in the server, or in line in this process.
    Running { session: Option<i64>, in_line: bool },
    /// In front of a step.
    Held { step: Step, go: oneshot::Sender<()> },
    /// A step found the database busy, when so many transactions had ended.
    Busy { decide: oneshot::Sender<Next>, ended: usize },
    /// There are no more steps.
    Done,
}

impl Stage {
    pub(super) fn new(clients: usize, syntax: Syntax) -> Self {
        let places = (0..clients).map(|_| Place::Running { session: None, in_line: false }).collect();
        let open = vec![TransactionToken::default(); clients];
        Self(Mutex::new(State {
            places,
            syntax,
            open,
            log: Log::default(),
            ended: 0,
            changes: 0,
            closed: false,
            side_by_side: None,
            unseen: Vec::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is neither held, nor busy, nor in line, nor done; and where in the server.
    pub(super) fn running(&self) -> Vec<(usize, Option<i64>)> {
        let state = self.state();
        let places = state.places.iter().enumerate();
        places
            .filter_map(|(client, place)| match place {
                Place::Running { session, in_line: false } => Some((client, *session)),
                Place::Running { in_line: true, .. } => None,
                Place::Held { .. } | Place::Busy { .. } | Place::Done => None,
            })
            .collect()
    }

    pub(super) fn is_running(&self, client: usize) -> bool {
        matches!(self.state().places.get(client), Some(Place::Running { .. }))
    }

    /// A number that changes with everything that happens.
    pub(super) fn changes(&self) -> usize {
        self.state().changes
    }

    /// Who could take a step; a busy one only when a transaction has ended since.
    pub(super) fn ready(&self) -> Vec<usize> {
        let state = self.state();
        let places = state.places.iter().enumerate();
        places
            .filter(|(_, place)| match place {
                Place::Held { .. } => true,
                Place::Busy { ended, .. } => *ended < state.ended,
                Place::Running { .. } | Place::Done => false,
            })
            .map(|(client, _)| client)
            .collect()
    }

    pub(super) fn busy(&self) -> Vec<usize> {
        let state = self.state();
        let places = state.places.iter().enumerate();
        places.filter(|(_, place)| matches!(place, Place::Busy { .. })).map(|(client, _)| client).collect()
    }

    /// Whether the client is about to begin again after a failed attempt.
    pub(super) fn begins_again(&self, client: usize) -> bool {
        let state = self.state();
        match &state.places[client] {
            Place::Held { step, .. } => step.attempt > 1 && state.log.is_first(client, step),
            Place::Running { .. } | Place::Busy { .. } | Place::Done => false,
        }
    }

    /// Where all clients stand, in words: the same for two schedules that have gone the same way.
    pub(super) fn view(&self) -> Vec<String> {
        let state = self.state();
        let places = state.places.iter().enumerate();
        places
            .map(|(client, place)| view::of(place, state.ended, state.log.last_of(client), state.syntax))
            .collect()
    }

    /// What the schedule has come to, failed attempts left out that have left nothing behind.
    pub(super) fn progress(&self) -> u64 {
        let state = self.state();
        view::progress(&state.log, &state.places, state.ended, state.syntax)
    }

    pub(super) fn side_by_side(&self) -> Option<usize> {
        self.state().side_by_side
    }

    pub(super) fn unseen(&self) -> Vec<(usize, String)> {
        self.state().unseen.clone()
    }

    /// Lets a client take its step.
    pub(super) fn go(&self, client: usize) {
        let mut state = self.state();
        let session = match &state.places[client] {
            Place::Held { step, .. } => step.session,
            Place::Running { .. } | Place::Busy { .. } | Place::Done => None,
        };
        match std::mem::replace(&mut state.places[client], Place::Running { session, in_line: false }) {
            Place::Held { step, go } => {
                let sent = Sent { client, step, answer: None, waited: None };
                state.log.0.push(Entry::Sent(Box::new(sent)));
                let _ = go.send(());
            }
            Place::Busy { decide, .. } => {
                let _ = decide.send(Next::SendAgain);
            }
            place @ (Place::Running { .. } | Place::Done) => state.places[client] = place,
        }
    }

    /// Has a busy client told so.
    pub(super) fn give_up(&self, client: usize) {
        let mut state = self.state();
        let running = Place::Running { session: None, in_line: false };
        if let Place::Busy { decide, .. } = std::mem::replace(&mut state.places[client], running) {
            let _ = decide.send(Next::GoOn);
        }
    }

    pub(super) fn done(&self, client: usize) {
        let mut state = self.state();
        state.places[client] = Place::Done;
        state.ended += 1;
        state.changes += 1;
    }

    /// Notes that clients wait in the server.
    pub(super) fn wait(&self, waits: &[LockWait]) {
        let mut state = self.state();
        let client_of = |session: i64| {
            state.places.iter().position(
                |place| matches!(place, Place::Running { session: Some(own), .. } if *own == session),
            )
        };
        let sessions = state.log.sessions();
        let waits: Vec<_> = waits
            .iter()
            .filter_map(|wait| {
                let blocked_by = wait.blocked_by.iter().filter_map(|session| sessions.get(session).copied());
                let waited = Waited { blocked_by: blocked_by.collect(), lock: wait.lock.clone() };
                Some((client_of(wait.session)?, waited))
            })
            .collect();
        for (client, waited) in waits {
            state.wait(client, waited);
        }
    }

    /// Ends the schedule, also for transactions that go on without their client: a commit that was given up
    /// is finished in the background, and must not wait here for a turn that never comes, nor be sent into
    /// the next schedule.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.places.clear();
    }

    pub(super) fn log(&self) -> Log {
        self.state().log.clone()
    }
}

impl State {
    fn wait(&mut self, client: usize, waited: Waited) {
        if let Some((_, sent)) = self.log.last_of_mut(client) {
            sent.waited.get_or_insert(waited);
        }
    }

    /// Whether SQLite would have waited for the lock that it did not get: only for a transaction's first one,
    /// and at its end. Between, it says so at once: whoever holds a lock and waits for another one is how
    /// deadlocks are made.
    fn would_wait(&self, step: &Step) -> bool {
        step.kind != StepKind::Statement || !self.log.has_run_a_statement(&step.transaction)
    }

    /// Lets a step of this client in, unless it belongs to a second transaction beside one that is open.
    fn admit(&mut self, client: usize, step: &Step) -> bool {
        let open = &self.open[client];
        if open.is_in_use() && !open.is(&step.transaction) {
            self.side_by_side = Some(client);
            self.changes += 1;
            return false;
        }
        self.open[client] = step.transaction.clone();
        true
    }
}
