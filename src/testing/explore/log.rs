//! The steps of one schedule and their answers, in order.

use std::collections::HashMap;

use crate::failure::{Failure, FailureKind};
use crate::intercept::{StatementAnswer, Step, StepKind, TransactionToken};

/// The steps of one schedule and their answers, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct ScheduleLog(pub(super) Vec<Entry>);

#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// A client sent a step.
    Sent(Box<Sent>),
    /// A step that had been waiting was answered: the index of its [`Entry::Sent`].
    Unblocked(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) client: usize,
    pub(super) step: Step,
    pub(super) answer: Option<StatementAnswer>,
    pub(super) waited: Option<Waited>,
}

/// What a step waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waited {
    /// The clients that blocked it, as far as the server names them.
    pub(super) blocked_by: Vec<usize>,
    /// The lock, as the server describes it.
    pub(super) lock: String,
}

impl ScheduleLog {
    /// The steps that were sent, in order.
    pub(super) fn sent(&self) -> impl DoubleEndedIterator<Item = &Sent> {
        self.0.iter().filter_map(|entry| match entry {
            Entry::Sent(sent) => Some(&**sent),
            Entry::Unblocked(_) => None,
        })
    }

    /// The client of an entry.
    pub(super) fn client_of(&self, entry: usize) -> usize {
        match self.0.get(entry) {
            Some(Entry::Sent(sent)) => sent.client,
            Some(Entry::Unblocked(sent)) if *sent < entry => self.client_of(*sent),
            Some(Entry::Unblocked(_)) | None => usize::MAX,
        }
    }

    /// The texts of the statements that a client sent.
    pub(super) fn statements_of(&self, client: usize) -> impl Iterator<Item = &str> {
        let sent = self.sent().filter(move |sent| sent.client == client);
        sent.filter(|sent| sent.step.kind == StepKind::Statement).map(|sent| sent.step.sql.as_str())
    }

    pub(super) fn last_of(&self, client: usize) -> Option<&Sent> {
        self.sent().rev().find(|sent| sent.client == client)
    }

    pub(super) fn last_of_mut(&mut self, client: usize) -> Option<(usize, &mut Sent)> {
        self.0.iter_mut().enumerate().rev().find_map(|(i, entry)| match entry {
            Entry::Sent(sent) if sent.client == client => Some((i, &mut **sent)),
            Entry::Sent(_) | Entry::Unblocked(_) => None,
        })
    }

    /// The clients that this one waits for, as far as the server tells. Those whose transactions have ended
    /// since the wait began are left out.
    pub(super) fn holders(&self, client: usize) -> Vec<usize> {
        let sent: Vec<&Sent> = self.sent().collect();
        let Some(at) = sent.iter().rposition(|sent| sent.client == client) else { return Vec::new() };
        let Some(waited) = sent[at].waited.as_ref().filter(|_| sent[at].answer.is_none()) else {
            return Vec::new();
        };
        let goes_on = |holder: &usize| {
            let before = sent[..at].iter().rev().find(|sent| sent.client == *holder);
            before.is_some_and(|before| {
                let mut own = sent[at..].iter().filter(|sent| sent.client == *holder);
                // One that waited may have been ahead in the queue, and hold nothing.
                before.waited.is_none()
                    && !before.step.kind.ends_transaction()
                    && own.all(|sent| {
                        sent.step.transaction.is(&before.step.transaction)
                            && !sent.step.kind.ends_transaction()
                    })
            })
        };
        waited.blocked_by.iter().copied().filter(goes_on).collect()
    }

    /// Whether the open transaction of a client has locked a SQLite database at its beginning.
    pub(super) fn has_locked_database(&self, client: usize) -> bool {
        let Some(last) = self.last_of(client).filter(|last| !last.step.kind.ends_transaction()) else {
            return false;
        };
        let mut same = self.sent().filter(|sent| sent.step.transaction.is(&last.step.transaction));
        same.any(|sent| {
            let is_answered = sent.answer.as_ref().is_some_and(|answer| answer.failure.is_none());
            is_answered && sent.step.locks_database()
        })
    }

    /// How many steps other clients sent while a step waited for them, added up for all steps that waited.
    pub(super) fn waited(&self) -> usize {
        let mut waiting: Vec<usize> = Vec::new();
        let mut total = 0;
        for (i, entry) in self.0.iter().enumerate() {
            match entry {
                Entry::Sent(sent) => {
                    total += waiting.len();
                    waiting.extend(sent.waited.is_some().then_some(i));
                }
                Entry::Unblocked(step) => waiting.retain(|waiting| waiting != step),
            }
        }
        total
    }

    /// The client that used each session last.
    pub(super) fn sessions(&self) -> HashMap<i64, usize> {
        self.sent().filter_map(|sent| Some((sent.step.session?, sent.client))).collect()
    }

    /// Whether the step is the first one of its transaction.
    pub(super) fn is_first(&self, client: usize, step: &Step) -> bool {
        !self.last_of(client).is_some_and(|last| last.step.transaction.is(&step.transaction))
    }

    /// Whether a statement of this transaction has succeeded.
    pub(super) fn has_run_a_statement(&self, transaction: &TransactionToken) -> bool {
        self.sent().any(|sent| {
            sent.step.kind == StepKind::Statement
                && sent.step.transaction.is(transaction)
                && sent.answer.as_ref().is_some_and(|answer| answer.failure.is_none())
        })
    }

    /// Whether the victim of a deadlock was not the client that had waited longest. A server that looks for
    /// deadlocks a fixed time after a wait began chooses another one only if it was late.
    pub(super) fn has_late_victim(&self) -> bool {
        let is_victim =
            |sent: &Sent| sent.failure().is_some_and(|failure| failure.kind() == FailureKind::Deadlock);
        let mut waiting: Vec<usize> = Vec::new();
        self.0.iter().enumerate().any(|(i, entry)| match entry {
            Entry::Sent(sent) => {
                waiting.extend(sent.waited.is_some().then_some(i));
                sent.waited.is_none() && is_victim(sent)
            }
            Entry::Unblocked(step) => {
                let is_first = waiting.first() == Some(step);
                waiting.retain(|waiting| waiting != step);
                !is_first && matches!(self.0.get(*step), Some(Entry::Sent(sent)) if is_victim(sent))
            }
        })
    }

    /// Whether a client went on before another one that it waited for and that waited as well: a server
    /// rarely serves one that came later to its queue first.
    pub(super) fn has_overtaking(&self) -> bool {
        let mut waiting: Vec<usize> = Vec::new();
        self.0.iter().enumerate().any(|(i, entry)| match entry {
            Entry::Sent(sent) => {
                waiting.extend(sent.waited.is_some().then_some(i));
                false
            }
            Entry::Unblocked(step) => {
                waiting.retain(|waiting| waiting != step);
                let Some(Entry::Sent(sent)) = self.0.get(*step) else { return false };
                let blocked_by = sent.waited.iter().flat_map(|waited| &waited.blocked_by);
                let waits = |client: &usize| waiting.iter().any(|other| self.client_of(*other) == *client);
                sent.failure().is_none() && blocked_by.into_iter().any(waits)
            }
        })
    }

    pub(super) fn has_deadlock(&self) -> bool {
        let mut failures = self.sent().filter_map(Sent::failure);
        failures.any(|failure| failure.kind() == FailureKind::Deadlock)
    }
}

pub(super) trait LocksDatabase {
    /// Whether it is a BEGIN that locks a SQLite database.
    fn locks_database(&self) -> bool;
}

impl LocksDatabase for Step {
    fn locks_database(&self) -> bool {
        self.kind == StepKind::Begin && self.sql.contains("IMMEDIATE")
    }
}

impl Sent {
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.answer.as_ref()?.failure.as_ref()
    }
}
