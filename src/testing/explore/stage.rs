//! Where the clients of a schedule stop before each step, until it is their turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::LockWait;
use crate::intercept::{Next, Step, StepKind, TransactionToken};
use crate::sql_text::Syntax;

use super::client_state::ClientState;
use super::independence::{Independence, StepClass};
use super::log::{Entry, LocksDatabase as _, ScheduleLog, Sent, Waited};
use super::view;

mod seat;

pub(super) use seat::Seat;

/// The state that all clients of one schedule share.
#[derive(Debug)]
pub(super) struct Stage(Mutex<StageState>);

#[derive(Debug)]
struct StageState {
    clients: Vec<ClientState>,
    syntax: Syntax,
    independence: Option<Arc<Independence>>,
    /// The open transaction of each client.
    open: Vec<TransactionToken>,
    log: ScheduleLog,
    /// The number of transactions that have ended.
    ended: usize,
    /// The number of state changes that clients made by themselves.
    changes: usize,
    /// The schedule is over: a transaction that still sends something loses its connection.
    closed: bool,
    /// A client that began a transaction while another one of its own was open.
    concurrent_client: Option<usize>,
    /// Steps that may have been several statements, with their clients.
    unseen: Vec<(usize, String)>,
}

impl Stage {
    pub(super) fn new(clients: usize, syntax: Syntax, independence: Option<Arc<Independence>>) -> Self {
        let running = || ClientState::Running { session: None, in_line: false };
        Self(Mutex::new(StageState {
            clients: (0..clients).map(|_| running()).collect(),
            syntax,
            independence,
            open: vec![TransactionToken::default(); clients],
            log: ScheduleLog::default(),
            ended: 0,
            changes: 0,
            closed: false,
            concurrent_client: None,
            unseen: Vec::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, StageState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clients that are running and not in a gate's queue, with their sessions in the server.
    pub(super) fn running(&self) -> Vec<(usize, Option<i64>)> {
        let state = self.state();
        let clients = state.clients.iter().enumerate();
        clients
            .filter_map(|(client, state)| match state {
                ClientState::Running { session, in_line: false } => Some((client, *session)),
                ClientState::Running { in_line: true, .. } => None,
                ClientState::Held { .. } | ClientState::Busy { .. } | ClientState::Done => None,
            })
            .collect()
    }

    pub(super) fn is_running(&self, client: usize) -> bool {
        matches!(self.state().clients.get(client), Some(ClientState::Running { .. }))
    }

    /// A number that changes whenever a client changes its state by itself.
    pub(super) fn changes(&self) -> usize {
        self.state().changes
    }

    /// The clients that could take a step. A busy one can only after a transaction has ended.
    pub(super) fn ready(&self) -> Vec<usize> {
        let state = self.state();
        state.clients_where(|client| match client {
            ClientState::Held { .. } => true,
            ClientState::Busy { ended, .. } => *ended < state.ended,
            ClientState::Running { .. } | ClientState::Done => false,
        })
    }

    pub(super) fn busy(&self) -> Vec<usize> {
        self.state().clients_where(|client| matches!(client, ClientState::Busy { .. }))
    }

    /// Whether the client is about to begin a retry.
    pub(super) fn is_about_to_retry(&self, client: usize) -> bool {
        let state = self.state();
        match &state.clients[client] {
            ClientState::Held { step, .. } => step.attempt > 1 && state.log.is_first(client, step),
            ClientState::Running { .. } | ClientState::Busy { .. } | ClientState::Done => false,
        }
    }

    /// Describes the state of each client, equally for two schedules that have gone the same way.
    pub(super) fn describe(&self) -> Vec<String> {
        let state = self.state();
        let describe = |(client, client_state)| {
            view::describe(client_state, state.ended, state.log.last_of(client), state.syntax)
        };
        state.clients.iter().enumerate().map(describe).collect()
    }

    /// A digest of the state that the schedule has reached, which ignores failed attempts.
    pub(super) fn digest(&self) -> u64 {
        let state = self.state();
        let independence = state.independence.as_deref();
        view::digest(&state.log, &state.clients, state.ended, state.syntax, independence)
    }

    /// The number of entries in the log.
    pub(super) fn entries(&self) -> usize {
        self.state().log.0.len()
    }

    /// What these entries of the log and all after them are, if equivalent schedules are skipped.
    pub(super) fn step_classes(&self, from: usize) -> Vec<StepClass> {
        let state = self.state();
        let Some(independence) = &state.independence else { return Vec::new() };
        (from..state.log.0.len()).map(|entry| independence.class(&state.log, entry)).collect()
    }

    /// Whether one of these entries of the log belongs to an attempt after the first one.
    pub(super) fn has_retries(&self, from: usize) -> bool {
        let state = self.state();
        let mut entries = state.log.0.iter().skip(from);
        entries.any(|entry| matches!(entry, Entry::Sent(sent) if sent.step.attempt > 1))
    }

    /// The clients that cannot go on before others have, each with those others, as far as they are known:
    /// the holders of locks whose transactions have not ended since the wait began.
    pub(super) fn waiting(&self) -> Vec<(usize, Vec<usize>)> {
        let state = self.state();
        let clients = 0..state.clients.len();
        // As long as one transaction has locked a SQLite database, the BEGIN of another one has no effect.
        let holder = clients.clone().find(|client| state.log.has_locked_database(*client));
        let for_database = clients.clone().filter(|client| state.is_about_to_lock_database(*client));
        let for_database = for_database.map(|client| (client, holder.into_iter().collect()));
        let is_running = |client: &usize| matches!(state.clients[*client], ClientState::Running { .. });
        let for_rows = clients.filter(is_running).map(|client| (client, state.log.holders(client)));
        for_database.chain(for_rows).collect()
    }

    /// The client that ran two units at the same time, if one did.
    pub(super) fn concurrent_client(&self) -> Option<usize> {
        self.state().concurrent_client
    }

    pub(super) fn unseen(&self) -> Vec<(usize, String)> {
        self.state().unseen.clone()
    }

    /// Lets a client take its step.
    pub(super) fn resume(&self, client: usize) {
        let mut state = self.state();
        let session = match &state.clients[client] {
            ClientState::Held { step, .. } => step.session,
            ClientState::Running { .. } | ClientState::Busy { .. } | ClientState::Done => None,
        };
        let running = ClientState::Running { session, in_line: false };
        match std::mem::replace(&mut state.clients[client], running) {
            ClientState::Held { step, go } => {
                let sent = Sent { client, step, answer: None, waited: None };
                state.log.0.push(Entry::Sent(Box::new(sent)));
                let _ = go.send(());
            }
            ClientState::Busy { decide, .. } => {
                let _ = decide.send(Next::SendAgain);
            }
            other @ (ClientState::Running { .. } | ClientState::Done) => state.clients[client] = other,
        }
    }

    /// Lets the step of a busy client fail, as SQLite does when its busy timeout expires.
    pub(super) fn fail_busy(&self, client: usize) {
        let mut state = self.state();
        let running = ClientState::Running { session: None, in_line: false };
        if let ClientState::Busy { decide, .. } = std::mem::replace(&mut state.clients[client], running) {
            let _ = decide.send(Next::GoOn);
        }
    }

    pub(super) fn set_done(&self, client: usize) {
        let mut state = self.state();
        state.clients[client] = ClientState::Done;
        state.ended += 1;
        state.changes += 1;
    }

    /// Records that clients wait for locks in the server.
    pub(super) fn record_waits(&self, waits: &[LockWait]) {
        let mut state = self.state();
        let client_of = |session: i64| {
            state.clients.iter().position(
                |client| matches!(client, ClientState::Running { session: Some(own), .. } if *own == session),
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
            state.record_wait(client, waited);
        }
    }

    /// Ends the schedule, also for transactions that outlive their client: a COMMIT whose client was dropped
    /// is finished in the background. It must neither wait here forever nor reach the next schedule.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.clients.clear();
    }

    pub(super) fn log(&self) -> ScheduleLog {
        self.state().log.clone()
    }
}

impl StageState {
    fn clients_where(&self, accepts: impl Fn(&ClientState) -> bool) -> Vec<usize> {
        let clients = self.clients.iter().enumerate();
        clients.filter(|(_, client)| accepts(client)).map(|(client, _)| client).collect()
    }

    fn record_wait(&mut self, client: usize, waited: Waited) {
        if let Some((_, sent)) = self.log.last_of_mut(client) {
            sent.waited.get_or_insert(waited);
        }
    }

    /// Whether SQLite's busy handler would wait for the lock: only for the first lock of a transaction, and
    /// at its end. In between it fails at once, because waiting while holding a lock could deadlock.
    fn would_wait(&self, step: &Step) -> bool {
        step.kind != StepKind::Statement || !self.log.has_run_a_statement(&step.transaction)
    }

    /// Whether the next step of the client is a BEGIN that locks a SQLite database, or waits for its lock.
    fn is_about_to_lock_database(&self, client: usize) -> bool {
        let step = match &self.clients[client] {
            ClientState::Held { step, .. } => Some(step),
            ClientState::Busy { .. } => self.log.last_of(client).map(|sent| &sent.step),
            ClientState::Running { .. } | ClientState::Done => None,
        };
        step.is_some_and(Step::locks_database)
    }

    /// Admits a step, unless its client has another open transaction.
    fn admit(&mut self, client: usize, step: &Step) -> bool {
        let open = &self.open[client];
        if open.is_in_use() && !open.is(&step.transaction) {
            self.concurrent_client = Some(client);
            self.changes += 1;
            return false;
        }
        self.open[client] = step.transaction.clone();
        true
    }
}
