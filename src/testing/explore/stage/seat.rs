//! The interceptor of one client: it stops the client before each step.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::failure::FailureKind;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind, TransactionToken};

use super::super::client_state::ClientState;
use super::super::log::{Entry, Waited};
use super::{Stage, StageState};

/// The interceptor of one client: it stops the client before each step.
#[derive(Debug)]
pub(in super::super) struct Seat {
    pub(in super::super) stage: Arc<Stage>,
    pub(in super::super) client: usize,
    /// Returns a quotation of a text that may be several statements.
    pub(in super::super) quote_several: fn(&str) -> Option<String>,
}

impl Seat {
    fn record_unseen(&self, what: String) {
        let mut state = self.stage.state();
        let unseen = (self.client, what);
        if !state.unseen.contains(&unseen) {
            state.unseen.push(unseen);
        }
    }

    fn record_answer(&self, state: &mut StageState, step: &Step, answer: &StatementAnswer) {
        if step.kind.ends_transaction() {
            state.ended += 1;
            // What the transaction does with its connection after its end is not a step.
            state.open[self.client] = TransactionToken::default();
        }
        let Some((i, sent)) = state.log.last_of_mut(self.client) else { return };
        sent.answer = Some(answer.clone());
        if sent.waited.is_some() {
            state.log.0.push(Entry::Unblocked(i));
            // This client has taken the lock, so the other busy clients wait for it to end.
            let now = state.ended;
            for client in &mut state.clients {
                if let ClientState::Busy { ended, .. } = client {
                    *ended = now;
                }
            }
        }
    }
}

#[async_trait]
impl Interceptor for Seat {
    fn wants_sessions(&self) -> bool {
        true
    }

    fn at_gate(&self, waits: bool) {
        let mut state = self.stage.state();
        state.changes += 1;
        if let Some(ClientState::Running { in_line, .. }) = state.clients.get_mut(self.client) {
            *in_line = waits;
        }
    }

    fn unwatched(&self) {
        self.record_unseen(String::from("`Tx::connection`"));
    }

    async fn before(&self, step: &Step) -> Option<Fault> {
        if step.kind == StepKind::Statement
            && let Some(several) = (self.quote_several)(&step.sql)
        {
            self.record_unseen(several);
        }
        let (go, resumed) = oneshot::channel();
        {
            let mut state = self.stage.state();
            if state.closed || !state.admit(self.client, step) {
                return Some(Fault::ConnectionLost);
            }
            state.clients[self.client] = ClientState::Held { step: step.clone(), go };
            state.changes += 1;
        }
        match resumed.await {
            Ok(()) => None,
            Err(_) => Some(Fault::ConnectionLost),
        }
    }

    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        let is_busy = answer.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Busy);
        let decided = {
            let mut state = self.stage.state();
            if state.closed || !is_busy || !state.would_wait(step) {
                self.record_answer(&mut state, step, answer);
                return Next::GoOn;
            }
            let (decide, decided) = oneshot::channel();
            let ended = state.ended;
            state.clients[self.client] = ClientState::Busy { decide, ended };
            state.changes += 1;
            let lock = String::from("the database is busy");
            state.record_wait(self.client, Waited { blocked_by: Vec::new(), lock });
            decided
        };
        let next = decided.await.unwrap_or(Next::GoOn);
        if next == Next::GoOn {
            self.record_answer(&mut self.stage.state(), step, answer);
        }
        next
    }
}
