//! Finds out whether a prior commit is stored.

use std::pin::pin;

use super::prior_commit::{PriorCommit, WAITING_FOR_COMMIT};
use super::transaction::UnitAttempts;
use crate::backend::Backend;
use crate::strategy::{CommitMarker, Resolve};
use crate::transactor::Ended;
use crate::transactor::commit_check::{CommitStatus, commit_status};
use crate::transactor::deadline::Timer;
use crate::transactor::retryable::AttemptOutcome;
use crate::tx::{Hooks, TxEnd};

impl<DB: Backend> UnitAttempts<'_, DB> {
    /// Returns the marker of the next attempt. It is that of an unknown commit, so that at most one of the
    /// two is ever stored, or else a new one.
    pub(super) fn next_marker(&self) -> Option<CommitMarker> {
        if let PriorCommit::Unknown { marker: Some(marker), .. } = self.prior {
            return Some(marker);
        }
        // A unit that finds its own commits needs no second marker.
        let resolve = self.options.resolves_commits().filter(|_| !self.unit.finds_its_commits());
        resolve.map(|by| match by {
            Resolve::Operation => CommitMarker::Operation(rand::random()),
            Resolve::TransactionStatus => CommitMarker::TransactionStatus,
        })
    }

    /// Asks the server for the status of an unknown commit whose marker is not a row, so that the next
    /// attempt would not collide with it. Returns the outcome of this attempt, or `None` if the unit is to
    /// run.
    pub(super) async fn check_prior_commit(&mut self, timer: &mut Timer) -> Option<AttemptOutcome<Ended>> {
        let PriorCommit::Unknown { failure, marker: Some(CommitMarker::TransactionStatus), answered, .. } =
            &self.prior
        else {
            return None;
        };
        let unknown = failure.clone();
        let Some(status) = timer.within(pin!(commit_status(self.pool, answered))).await else {
            return Some(AttemptOutcome::OutOfTime { failure: None, during: WAITING_FOR_COMMIT });
        };
        match status {
            Ok(CommitStatus::Committed) => Some(self.already_committed(timer).await),
            Ok(CommitStatus::Aborted) => {
                self.prior = PriorCommit::None;
                None
            }
            Ok(CommitStatus::Pending) => Some(AttemptOutcome::failed(unknown.retryable(true))),
            Ok(CommitStatus::Unknown) => Some(AttemptOutcome::failed(unknown)),
            Err(failure) => Some(AttemptOutcome::failed(failure)),
        }
    }

    /// Runs the hooks of the prior commit, which turned out to be stored, and ends the run.
    pub(super) async fn already_committed(&mut self, timer: &mut Timer) -> AttemptOutcome<Ended> {
        // Later attempts were rolled back, but the unit is stored, so their hooks must not run.
        self.hooks = Hooks::default();
        if let Some(hooks) = self.prior.take_hooks() {
            timer.run_hooks(hooks, TxEnd::Committed).await;
        }
        AttemptOutcome::Done(Ended::Committed)
    }
}
