//! Ends the transaction of an attempt: commits or rolls back, and runs the hooks.

use futures_core::future::BoxFuture;

use super::prior_commit::{PriorCommit, UnknownAttempt, WAITING_FOR_COMMIT};
use super::transaction::{OpenAttempt, UnitAttempts};
use super::unseen::explained;
use crate::backend::{Backend, Capability};
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::strategy::CommitMarker;
use crate::transactor::atomicity::sent_once;
use crate::transactor::deadline::Timer;
use crate::transactor::retryable::{AttemptOutcome, GiveUpWith};
use crate::transactor::{Decision, Ended};
use crate::tx::{CommitOutcome, Tx, TxEnd, Unwatched};

impl<DB: Backend> UnitAttempts<'_, DB> {
    /// Ends the transaction as the unit decided, unless a failure prevents it.
    pub(super) async fn end(
        &mut self,
        mut open: OpenAttempt<DB>,
        decision: Decision,
        unseen: Option<Unwatched>,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        if decision != Decision::Commit || open.tx.over().is_some() || timer.clock.is_over() {
            // Boxed, because most units commit.
            return Box::pin(self.end_uncommitted(open, decision, timer)).await;
        }
        match (self.commit(open, timer).await, unseen) {
            (AttemptOutcome::Failed { failure, .. }, Some(Unwatched::Failed(cause)))
                if failure.kind() == FailureKind::Aborted =>
            {
                AttemptOutcome::Failed { failure: cause, give_up_with: GiveUpWith::Swallowed }
            }
            (outcome, _) => outcome,
        }
    }

    /// Ends a transaction that must not be committed, or has no time left for it.
    async fn end_uncommitted(
        &mut self,
        mut open: OpenAttempt<DB>,
        decision: Decision,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        let failure = match (open.tx.over(), decision) {
            (Some(failure), _) => Some(failure.clone()),
            // On databases where a violation undoes only its statement, the unit may have handled it and
            // still commit.
            (None, Decision::RollBack) => open.tx.unique_violation().cloned(),
            (None, Decision::Commit | Decision::Abandon | Decision::AlreadyCommitted) => None,
        };
        let failure = match failure {
            Some(failure) => Some(explained(failure, &mut open.tx, self.pool, timer).await),
            None => None,
        };
        match (failure, decision) {
            (_, Decision::Abandon) => {
                self.roll_back(open.tx).await;
                // The unit may have waited for the row of the prior commit, which may still be stored.
                match self.prior.failure() {
                    Some(unknown) => AttemptOutcome::failed(unknown),
                    None => AttemptOutcome::Done(Ended::RolledBack),
                }
            }
            (_, Decision::AlreadyCommitted) => {
                let number = open.tx.found_attempt();
                open.tx.rollback().await;
                self.already_committed(number, timer).await
            }
            (Some(failure), decision) => self.end_failed(open.tx, failure, decision).await,
            (None, Decision::RollBack) => self.end_rolled_back(open.tx).await,
            (None, Decision::Commit) => {
                self.roll_back(open.tx).await;
                let during = "for the unit itself, which ended too late to commit";
                AttemptOutcome::OutOfTime { failure: None, during }
            }
        }
    }

    /// Rolls back because of a failure, which the unit has returned or ignored.
    async fn end_failed(
        &mut self,
        tx: Box<Tx<DB>>,
        failure: Failure,
        decision: Decision,
    ) -> AttemptOutcome<Ended> {
        let may_be_stored_in_part = tx.may_be_stored_in_part(&failure);
        self.roll_back(tx).await;
        if may_be_stored_in_part {
            return AttemptOutcome::Final(sent_once(failure));
        }
        let give_up_with = match decision {
            // The prior commit may still be stored: by another server of the cluster, or because the unit
            // failed before it had written its row.
            Decision::RollBack if self.prior.failure().is_some() => GiveUpWith::Failure,
            Decision::RollBack => GiveUpWith::Own(Ended::RolledBack),
            _ => GiveUpWith::Swallowed,
        };
        AttemptOutcome::Failed { failure, give_up_with }
    }

    /// Rolls back because the unit returned an error of its own.
    async fn end_rolled_back(&mut self, tx: Box<Tx<DB>>) -> AttemptOutcome<Ended> {
        let is_fenced = tx.engine().has(Capability::UniqueKeysFence);
        self.roll_back(tx).await;
        match self.prior.failure() {
            // Another server of the cluster may still store the prior commit.
            Some(unknown) if !is_fenced => AttemptOutcome::failed(unknown),
            // This transaction had locked the row of the prior commit, which therefore cannot succeed.
            _ => {
                self.prior = PriorCommit::None;
                AttemptOutcome::Done(Ended::RolledBack)
            }
        }
    }

    /// Starts to roll back, and keeps the hooks of the attempt.
    pub(super) fn roll_back(&mut self, mut tx: Box<Tx<DB>>) -> BoxFuture<'static, ()> {
        self.hooks = tx.take_hooks();
        tx.rollback()
    }

    async fn commit(&mut self, open: OpenAttempt<DB>, timer: &mut Timer) -> AttemptOutcome<Ended> {
        let OpenAttempt { tx, marker, permits, .. } = open;
        let number = tx.attempt();
        let reads_only = tx.plan().access == Access::ReadOnly;
        let answered = match marker {
            Some(CommitMarker::TransactionStatus) => tx.answered().to_vec(),
            _ => Vec::new(),
        };
        let mut committing = tx.commit(timer.clock.deadline);
        let (commit, hooks) = match timer.within(&mut committing).await {
            Some((commit, waiting)) => (commit, waiting.hooks),
            None => {
                let waiting = committing.give_up();
                (CommitOutcome::unanswered(), waiting.map(|waiting| waiting.hooks).unwrap_or_default())
            }
        };
        // Other runs need not wait for hooks.
        drop(permits);
        match commit {
            CommitOutcome::Done => {
                self.prior = PriorCommit::None;
                timer.run_hooks(hooks, TxEnd::Committed).await;
                AttemptOutcome::Done(Ended::Committed)
            }
            CommitOutcome::Refused(failure) => {
                self.hooks = hooks;
                AttemptOutcome::failed(failure)
            }
            // Nothing was written, so nothing can have been stored or lost.
            CommitOutcome::Unknown(failure) if reads_only => {
                self.hooks = hooks;
                let failure = nothing_stored(&failure);
                if timer.clock.is_over() {
                    AttemptOutcome::out_of_time(WAITING_FOR_COMMIT, failure)
                } else {
                    AttemptOutcome::failed(failure)
                }
            }
            CommitOutcome::Unknown(failure) => {
                let attempt = UnknownAttempt { number, hooks };
                self.prior.add(failure.clone(), (marker, answered), attempt);
                self.unit.commit_is_unknown(number);
                let can_be_found = marker.is_some() || self.unit.finds_its_commits();
                AttemptOutcome::failed(failure.retryable(can_be_found))
            }
        }
    }
}

/// Returns the failure of a commit that was never acknowledged, for a unit that only reads.
fn nothing_stored(unknown: &Failure) -> Failure {
    Failure::new(FailureKind::ConnectionLost, unknown.message()).retryable(true)
}
