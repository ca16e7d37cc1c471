//! How the clients of a schedule ended.

use std::sync::{Mutex, PoisonError};

use crate::events::{Event, Observer, RunOutcome, UnitEvent};

use super::super::client_state::ClientResult;

/// How a client ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum ClientEnd {
    /// It returned this, and what it did is stored; or it returned an error of its own.
    Returned(String),
    /// The database or the crate kept its last unit from being stored.
    NotRun(String),
    /// The outcome of its commit is unknown.
    Unknown(String),
}

impl ClientEnd {
    /// Whether the database or the crate returned an error.
    pub(in super::super) const fn is_failure(&self) -> bool {
        matches!(self, Self::NotRun(_) | Self::Unknown(_))
    }
}

/// Records how the last unit of a client ended.
#[derive(Debug, Default)]
pub(in super::super) struct RunEndRecorder(Mutex<LastRun>);

#[derive(Debug, Clone, Copy, Default)]
struct LastRun {
    outcome: Option<RunOutcome>,
    /// Whether a statement of the last attempt has failed.
    has_failure: bool,
    /// Whether the crate's own error was returned.
    has_error: bool,
}

impl RunEndRecorder {
    /// Interprets the result of the client.
    pub(in super::super) fn end(&self, result: ClientResult) -> ClientEnd {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, last.outcome) {
            (Ok(value), _) => ClientEnd::Returned(value),
            (Err(error), None | Some(RunOutcome::Committed)) => ClientEnd::Returned(own_error(&error)),
            (Err(error), Some(RunOutcome::CommitUnknown)) => ClientEnd::Unknown(error),
            (Err(error), Some(RunOutcome::RolledBack)) if !last.has_failure && !last.has_error => {
                ClientEnd::Returned(own_error(&error))
            }
            (Err(error), Some(_)) => ClientEnd::NotRun(error),
        }
    }
}

fn own_error(error: &str) -> String {
    format!("error: {error}")
}

impl Observer for RunEndRecorder {
    fn observe(&self, event: &Event<'_>) {
        let Event::Unit { event, .. } = event else { return };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            UnitEvent::Started | UnitEvent::AttemptStarted { .. } => *last = LastRun::default(),
            UnitEvent::StatementDone { failure, .. } => last.has_failure |= failure.is_some(),
            UnitEvent::AttemptFailed { .. } => last.has_failure = true,
            UnitEvent::Ended { summary, error } => {
                last.outcome = Some(summary.outcome);
                last.has_error = error.is_some();
            }
            _ => {}
        }
    }
}
