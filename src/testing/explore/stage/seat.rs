//! A client's place on the stage: each of its steps stops here until it is its turn.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::failure::FailureKind;
use crate::intercept::{Fault, Interceptor, Next, StatementAnswer, Step, StepKind, TransactionToken};

use super::super::log::{Entry, Waited};
use super::{Place, Stage, State};

/// A client's place on the stage.
#[derive(Debug)]
pub(in super::super) struct Seat {
    pub(in super::super) stage: Arc<Stage>,
    pub(in super::super) client: usize,
    /// What of a text cannot be told to be one statement.
    pub(in super::super) several: fn(&str) -> Option<String>,
}

impl Seat {
    fn note_unseen(&self, what: String) {
        let mut state = self.stage.state();
        let noted = (self.client, what);
        if !state.unseen.contains(&noted) {
            state.unseen.push(noted);
        }
    }

    fn answered(&self, state: &mut State, step: &Step, answer: &StatementAnswer) {
        if step.kind.ends_transaction() {
            state.ended += 1;
            // What is left to be done with its connection is no step.
            state.open[self.client] = TransactionToken::default();
        }
        let Some((i, sent)) = state.log.last_of_mut(self.client) else { return };
        sent.answer = Some(answer.clone());
        if sent.waited.is_some() {
            state.log.0.push(Entry::GotOn(i));
            // Whoever waits for the same lock waits on.
            let now = state.ended;
            for place in &mut state.places {
                if let Place::Busy { ended, .. } = place {
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
        if let Some(Place::Running { in_line, .. }) = state.places.get_mut(self.client) {
            *in_line = waits;
        }
    }

    fn unwatched(&self) {
        self.note_unseen(String::from("`Tx::connection`"));
    }

    async fn before(&self, step: &Step) -> Option<Fault> {
        if step.kind == StepKind::Statement
            && let Some(several) = (self.several)(&step.sql)
        {
            self.note_unseen(several);
        }
        let (go, gone) = oneshot::channel();
        {
            let mut state = self.stage.state();
            if state.closed || !state.admit(self.client, step) {
                return Some(Fault::ConnectionLost);
            }
            state.places[self.client] = Place::Held { step: step.clone(), go };
            state.changes += 1;
        }
        match gone.await {
            Ok(()) => None,
            Err(_) => Some(Fault::ConnectionLost),
        }
    }

    async fn after(&self, step: &Step, answer: &StatementAnswer) -> Next {
        let is_busy = answer.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Busy);
        let decided = {
            let mut state = self.stage.state();
            if state.closed || !is_busy || !state.would_wait(step) {
                self.answered(&mut state, step, answer);
                return Next::GoOn;
            }
            let (decide, decided) = oneshot::channel();
            let ended = state.ended;
            state.places[self.client] = Place::Busy { decide, ended };
            state.changes += 1;
            state.wait(
                self.client,
                Waited { blocked_by: Vec::new(), lock: String::from("the database is busy") },
            );
            decided
        };
        let next = decided.await.unwrap_or(Next::GoOn);
        if next == Next::GoOn {
            self.answered(&mut self.stage.state(), step, answer);
        }
        next
    }
}
