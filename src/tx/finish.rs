//! Commit and rollback.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::{Backend, Closing, Reply, Survival, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::intercept::StepKind;
use crate::telemetry::{RunClock, counted};

use super::kept::KeptFailure;
use super::shielded_commit::{Finish, Shieldable};
use super::{Hooks, Shield, Tx, TxEnd, send};

/// How long a rollback may take. After that the connection is closed, and the server rolls back by itself.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// The maximum number of times that a rollback is sent. A Galera node responds to the first one with the
/// conflict that has already rolled the transaction back, and does not execute the rest of the text.
const MAX_ROLLBACKS: usize = 2;

/// The outcome of a commit.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// The transaction is committed.
    Done,
    /// The transaction is not committed.
    Refused(Failure),
    /// COMMIT was sent and its outcome is unknown.
    Unknown(Failure),
}

/// What unwatched statements did to their transaction.
#[derive(Debug)]
pub(crate) enum Unwatched {
    /// The transaction is open, and none of them failed.
    Unchanged,
    /// One of them failed in a way that ends the transaction.
    Failed(Failure),
    /// One of them has ended the transaction, so the unit's changes are stored, all or in part. This
    /// failure replaces the unit's own, because the unit must not be retried.
    Ended(Failure),
}

impl CommitOutcome {
    /// Returns the outcome of a commit that was not acknowledged by the deadline.
    pub(crate) fn unanswered() -> Self {
        Self::Unknown(unanswered())
    }

    /// Returns the end of the transaction that selects the hooks to run.
    const fn end(&self) -> TxEnd {
        match self {
            Self::Done => TxEnd::Committed,
            Self::Refused(_) => TxEnd::RolledBack,
            Self::Unknown(_) => TxEnd::Unknown,
        }
    }
}

/// The hooks that run after a commit.
pub(crate) struct HooksAfterCommit {
    pub(crate) hooks: Hooks,
    deadline: Instant,
}

impl<F: Shieldable<Output = CommitOutcome>> Finish<F> for HooksAfterCommit {
    fn finish(self, commit: Pin<Box<F>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let end = timeout_at(self.deadline, commit).await.map_or(TxEnd::Unknown, |commit| commit.end());
            self.hooks.run(end).await;
        })
    }
}

impl<DB: Backend> Tx<DB> {
    /// Commits the transaction. Returns the outcome, and the hooks that are to run after it.
    ///
    /// Cancellation: the commit continues in the background until the deadline, and then its hooks run. If
    /// it is [given up](Shield::give_up) instead, the connection is closed, and the pool may open another
    /// one at once.
    pub(crate) fn commit(
        mut self: Box<Self>,
        deadline: Instant,
    ) -> Shield<impl Shieldable<Output = CommitOutcome>, HooksAfterCommit> {
        let waiting = HooksAfterCommit { hooks: std::mem::take(&mut self.hooks), deadline };
        Shield::new(Handle::current(), self.commit_and_wait(), waiting)
    }

    /// Cancellation: the connection is closed, and the commit may or may not be stored.
    async fn commit_and_wait(mut self: Box<Self>) -> CommitOutcome {
        if let Some(failure) = self.over() {
            let failure = failure.clone();
            self.rollback().await;
            return CommitOutcome::Refused(failure);
        }
        let kept = if self.kept.is_empty() {
            Vec::new()
        } else {
            // Boxed, because only some transactions keep statements.
            match Box::pin(self.take_kept()).await {
                Ok(kept) => kept,
                Err(failure) => {
                    self.rollback().await;
                    return CommitOutcome::Refused(failure);
                }
            }
        };
        let closing = self.closing();
        let mut ending = DB::commit(&closing);
        if let Some(guard) = ending.guard.take()
            && let Some(error) = self.step(StepKind::Control, guard.into_owned()).await.error
        {
            let failure = failure_or_other::<DB>(&error);
            let has_ended = (DB::GUARD.has_ended)(Some(&failure));
            return CommitOutcome::Refused(if has_ended { lost::<DB>(&closing, &failure) } else { failure });
        }
        let folded = self.fold_commit(kept, &ending);
        let (sql, before_commit) = match &folded {
            Some(folded) => (folded.sql.clone().into(), folded.before_commit),
            None => (ending.sql, ending.before_commit),
        };
        let (interception, connection) = (self.interception.as_ref(), self.session.connection());
        let commit = send::<DB>(interception, connection, StepKind::Commit, sql);
        let reply = last_step(self.state.run_clock(), pin!(commit)).await;
        if let Some(folded) = folded
            && let Some(failed) = self.end_kept(*folded, &reply)
        {
            return Box::pin(self.refuse_kept(failed)).await;
        }
        let outcome = outcome::<DB>(&reply, before_commit, &closing);
        match (&outcome, &reply.error) {
            (CommitOutcome::Done, None) => match ending.after {
                None => self.release(),
                Some(after) => self.restore_and_release(after.into_owned()).await,
            },
            (CommitOutcome::Refused(failure), _) => self.end_refused(failure, closing.unwatched).await,
            _ => {}
        }
        outcome
    }

    /// Ends a transaction whose commit was refused.
    async fn end_refused(self: Box<Self>, failure: &Failure, is_unwatched: bool) {
        // The statement that ended the transaction may have left more on the session than a rollback undoes,
        // such as table locks.
        let may_hold_more = failure.kind() == FailureKind::Aborted && is_unwatched;
        if failure.ends_session() || may_hold_more {
            return;
        }
        if DB::REFUSED_COMMIT_ENDS_TRANSACTION && !is_unwatched {
            self.release();
        } else {
            self.rollback().await;
        }
    }

    /// Rolls back because a kept statement failed.
    async fn refuse_kept(mut self: Box<Self>, KeptFailure { failure, left }: KeptFailure) -> CommitOutcome {
        let failure = self.explain_kept(failure).await;
        self.closing.left = left;
        self.state.end(failure.clone());
        self.rollback().await;
        CommitOutcome::Refused(failure)
    }

    /// Releases the connection after a clean end.
    fn release(mut self) {
        if self.state.is_unwatched() || self.state.may_have_changed_settings {
            self.session.forget_settings();
        }
        self.session.release();
    }

    /// Sends a statement of this crate that does not count as a statement of the unit.
    async fn step(&mut self, kind: StepKind, sql: String) -> Reply {
        let (interception, connection) = (self.interception.as_ref(), self.session.connection());
        send::<DB>(interception, connection, kind, sql).await
    }

    /// Restores the session's settings and releases the connection.
    async fn restore_and_release(mut self: Box<Self>, settings: String) {
        let answered = timeout(ROLLBACK_LIMIT, DB::send_text(self.session.connection(), settings)).await;
        if matches!(answered, Ok(Reply { error: None, .. })) {
            self.release();
        }
    }

    /// Returns whether a statement that failed like this has ended the transaction.
    pub(crate) fn ends_with(failure: &Failure) -> bool {
        DB::survival(failure) == Survival::Over
    }

    /// Finds out, before a rollback, what unwatched statements did to the transaction. `converted` is the
    /// failure in the last sqlx error that the unit converted.
    ///
    /// Costs a round trip if the unit has used the connection itself, and nothing otherwise.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn check_unwatched(&mut self, converted: Option<Failure>) -> Unwatched {
        if !self.state.is_unwatched()
            || self.state.session_is_unusable()
            || self.state.is_streaming()
            || self.state.over().is_some_and(DB::rolls_back_everything)
        {
            return Unwatched::Unchanged;
        }
        self.state.set_in_flight(true);
        let check = self.step(StepKind::Control, DB::GUARD.sql.to_owned());
        // If the server does not respond, the statement stays in flight, which closes the connection.
        let Ok(reply) = timeout(ROLLBACK_LIMIT, check).await else { return Unwatched::Unchanged };
        self.state.set_in_flight(false);
        let answer = reply.error.as_ref().map(failure_or_other::<DB>);
        if (DB::GUARD.has_ended)(answer.as_ref()) {
            self.state.distrust_session();
            return match converted {
                Some(failure) if DB::rolls_back_everything(&failure) => Unwatched::Failed(failure),
                _ => Unwatched::Ended(ended_unseen("rollback", answer.as_ref())),
            };
        }
        match converted {
            // If this transaction has seen no error, the unit converted an error of another database.
            Some(_) if DB::EVERY_ERROR_ABORTS && answer.is_none() => Unwatched::Unchanged,
            Some(failure) => Unwatched::Failed(failure),
            None => Unwatched::Unchanged,
        }
    }

    /// Rolls back and releases the connection, or closes it if the rollback fails. Boxed, because a
    /// rollback would add its size to the future of every run at each place where a run may end.
    ///
    /// Cancellation: the connection is closed, and the server rolls back.
    pub(crate) fn rollback(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // The unread rest of a stream may be endless.
            if self.state.session_is_unusable() || self.state.is_streaming() {
                if !self.state.is_in_flight() {
                    self.session.close();
                }
                return;
            }
            let closing = self.closing();
            for _ in 0..MAX_ROLLBACKS {
                let (interception, connection) = (self.interception.as_ref(), self.session.connection());
                let sql = DB::rollback(&closing);
                let rollback = send::<DB>(interception, connection, StepKind::Rollback, sql);
                let rollback = last_step(self.state.run_clock(), Box::pin(rollback));
                let Ok(reply) = timeout(ROLLBACK_LIMIT, rollback).await else { return };
                let refused = reply.error.as_ref().map(|error| failure_or_other::<DB>(error));
                match refused {
                    // The transaction had ended already.
                    Some(failure) if failure.kind() == FailureKind::Aborted => break,
                    None => break,
                    Some(failure) if DB::rolls_back_everything(&failure) => {}
                    Some(_) => return,
                }
            }
            self.release();
        })
    }
}

/// Awaits COMMIT or ROLLBACK and measures it for the observers.
///
/// The caller pins the step: moving it here would store it twice in the future of every commit.
async fn last_step(run_clock: Option<&Arc<RunClock>>, step: impl Future<Output = Reply> + Unpin) -> Reply {
    let Some(run_clock) = run_clock else { return step.await };
    run_clock.ending();
    let reply = counted(Some(run_clock), |times| &mut times.control, step).await;
    run_clock.ended_transaction();
    reply
}

fn outcome<DB: Backend>(reply: &Reply, before_commit: usize, closing: &Closing) -> CommitOutcome {
    // A failure after COMMIT does not change its outcome.
    if reply.completed > before_commit {
        return CommitOutcome::Done;
    }
    let Some(error) = &reply.error else {
        return CommitOutcome::Unknown(unanswered());
    };
    let failure = failure_or_other::<DB>(error);
    let is_from_server = matches!(error, sqlx::Error::Database(_));
    let at_the_guard = reply.completed < before_commit;
    if at_the_guard && is_from_server && (failure.is_definite() || !failure.ends_session()) {
        let has_ended = (DB::GUARD.has_ended)(Some(&failure));
        let is_aborted = matches!(failure.kind(), FailureKind::Aborted | FailureKind::Other);
        return CommitOutcome::Refused(match (has_ended, is_aborted) {
            (true, _) => lost::<DB>(closing, &failure),
            (false, true) => failed_unseen(&failure),
            (false, false) => failure,
        });
    }
    if is_from_server && failure.kind() == FailureKind::Aborted && before_commit == 0 {
        CommitOutcome::Refused(ended_unseen("commit", Some(&failure)))
    } else if is_from_server && failure.is_definite() {
        CommitOutcome::Refused(failure)
    } else {
        CommitOutcome::Unknown(failure.into_commit_unknown())
    }
}

/// Returns the failure for a transaction that is gone at its commit.
fn lost<DB: Backend>(closing: &Closing, reported: &Failure) -> Failure {
    DB::unreported_abort(closing).unwrap_or_else(|| ended_unseen("commit", Some(reported)))
}

/// Returns the failure for a transaction that is still the one that was opened, but has failed.
fn failed_unseen(reported: &Failure) -> Failure {
    let message = format!(
        "a statement that the transaction did not see had failed, so nothing was stored. The server \
         reported: {reported}"
    );
    Failure::new(FailureKind::Aborted, message)
}

/// Returns the failure for a transaction that is no longer the one that was opened.
pub(super) fn ended_unseen(before: &str, reported: Option<&Failure>) -> Failure {
    let reported = reported.map(|failure| format!(" The server reported: {failure}")).unwrap_or_default();
    Failure::new(
        FailureKind::Aborted,
        format!(
            "something ended the transaction before its {before} (a statement that commits implicitly, or an \
             error that the transaction did not see); statements that ran outside of it may be stored: check \
             before you run the unit again.{reported}"
        ),
    )
}

fn unanswered() -> Failure {
    Failure::new(FailureKind::CommitUnknown, "the server did not answer the commit in time").definite(false)
}
