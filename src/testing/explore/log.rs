//! What happened in a schedule, in order.

use crate::failure::FailureKind;
use crate::intercept::{Answer, Step};

/// What happened, in order.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// A client took a step.
    Sent(Box<Sent>),
    /// A step that had been waiting was answered: the number of its entry.
    GotOn(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) client: usize,
    pub(super) step: Step,
    pub(super) answer: Option<Answer>,
    pub(super) waited: Option<Waited>,
}

/// What a step waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waited {
    /// Other clients, as far as the server says.
    pub(super) blocked_by: Vec<usize>,
    /// The lock, in the server's words.
    pub(super) lock: String,
}

impl Entry {
    pub(super) fn is_deadlock(&self) -> bool {
        match self {
            Self::Sent(sent) => {
                let failure = sent.answer.as_ref().and_then(|answer| answer.failure.as_ref());
                failure.is_some_and(|failure| failure.kind() == FailureKind::Deadlock)
            }
            Self::GotOn(_) => false,
        }
    }
}
