//! Finds out whether a prior commit is stored.

use std::pin::pin;

use super::prior_commit::{PriorCommit, WAITING_FOR_COMMIT};
use super::transaction::UnitAttempts;
use crate::backend::Backend;
use crate::strategy::{CommitMarker, Resolve};
use crate::transactor::Ended;
use crate::transactor::commit_check::{CommitStatus, commit_status, stored_attempt};
use crate::transactor::deadline::Timer;
use crate::transactor::retryable::AttemptOutcome;
use crate::tx::{Hooks, TxEnd};

impl<DB: Backend> UnitAttempts<'_, DB> {
    /// Returns the marker of the next attempt. It is that of an unknown commit, so that at most one of the
    /// two is ever stored, or else a new one.
    pub(super) fn next_marker(&self, number: u32) -> Option<CommitMarker> {
        if let PriorCommit::Unknown { marker: Some(marker), .. } = self.prior {
            return Some(marker.of_later_attempt(number));
        }
        // A unit that finds its own commits needs no second marker.
        let resolve = self.options.resolves_commits().filter(|_| !self.unit.finds_its_commits());
        resolve.map(|by| match by {
            Resolve::Operation => CommitMarker::Operation { id: rand::random(), later_attempt: None },
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
            Ok(CommitStatus::Committed) => Some(self.already_committed(None, timer).await),
            Ok(CommitStatus::Aborted) => {
                self.prior = PriorCommit::None;
                None
            }
            Ok(CommitStatus::Pending) => Some(AttemptOutcome::failed(unknown.retryable(true))),
            Ok(CommitStatus::Unknown) => Some(AttemptOutcome::failed(unknown)),
            Err(failure) => Some(AttemptOutcome::failed(failure)),
        }
    }

    /// Ends the run after the row of its operation was found, and finds out which attempt has stored it.
    pub(super) async fn operation_is_stored(&mut self, timer: &mut Timer) -> AttemptOutcome<Ended> {
        let Some((id, attempts)) = self.prior.ambiguous() else {
            return self.already_committed(None, timer).await;
        };
        let lookup = stored_attempt(self.pool, self.options.tables(), id, &attempts);
        match timer.within(pin!(lookup)).await {
            Some(Ok(Some(number))) => self.already_committed(Some(number), timer).await,
            // The node that was asked has not applied the commit yet.
            Some(Ok(None)) => match self.prior.failure() {
                Some(unknown) => AttemptOutcome::failed(unknown.retryable(true)),
                None => self.already_committed(None, timer).await,
            },
            Some(Err(failure)) => AttemptOutcome::failed(failure),
            None => AttemptOutcome::OutOfTime { failure: None, during: WAITING_FOR_COMMIT },
        }
    }

    /// Runs the hooks of the prior commit that turned out to be stored, and ends the run. It is that of the
    /// attempt with this number, or the last one.
    pub(super) async fn already_committed(
        &mut self,
        number: Option<u32>,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        // Later attempts were rolled back, but the unit is stored, so their hooks must not run.
        self.hooks = Hooks::default();
        if let Some(attempt) = self.prior.take(number) {
            self.unit.commit_was_found(attempt.number);
            timer.run_hooks(attempt.hooks, TxEnd::Committed).await;
        }
        AttemptOutcome::Done(Ended::Committed)
    }
}
