//! Commit and rollback.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::{Backend, Reply, Survival, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::intercept::StepKind;
use crate::telemetry::{RunClock, counted};

use super::shielded_commit::{Finish, Shieldable};
use super::{Hooks, Shield, Tx, TxEnd, send};

/// How long a rollback is waited for. A server that does not answer loses the connection, and rolls back by
/// itself.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// A node of a Galera cluster answers the first rollback with the conflict that has rolled the transaction
/// back already, and leaves out what comes behind it.
const ROLLBACKS: usize = 2;

/// The outcome of a commit.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// It is stored.
    Done,
    /// It is not stored.
    Refused(Failure),
    /// It was sent, and nobody knows.
    Unknown(Failure),
}

/// What became of a transaction in statements that were not seen.
#[derive(Debug)]
pub(crate) enum Unseen {
    /// Nothing that changes anything.
    Nothing,
    /// A statement failed, in a way that ends the transaction.
    Failed(Failure),
    /// Something has ended the transaction, so that what the unit did is stored, all of it or a part. That is
    /// the failure then, whatever the unit had failed with: the unit must not be run again.
    Ended(Failure),
}

impl CommitOutcome {
    /// The outcome of one that was waited for too long.
    pub(crate) fn unanswered() -> Self {
        Self::Unknown(unanswered())
    }

    /// What hooks are told.
    const fn end(&self) -> TxEnd {
        match self {
            Self::Done => TxEnd::Committed,
            Self::Refused(_) => TxEnd::RolledBack,
            Self::Unknown(_) => TxEnd::Unknown,
        }
    }
}

/// What waits for a commit.
pub(crate) struct Waiting {
    pub(crate) hooks: Hooks,
    deadline: Instant,
}

impl<F: Shieldable<Output = CommitOutcome>> Finish<F> for Waiting {
    fn finish(self, commit: Pin<Box<F>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let end = timeout_at(self.deadline, commit).await.map_or(TxEnd::Unknown, |commit| commit.end());
            self.hooks.run(end).await;
        })
    }
}

impl<DB: Backend> Tx<DB> {
    /// Commits. Answers the outcome, and the hooks that are to be run then.
    ///
    /// Cancellation: goes on in the background until the deadline, hooks included. Given up, the connection
    /// is closed, and its place in the pool is free at once.
    pub(crate) fn commit(
        mut self: Box<Self>,
        deadline: Instant,
    ) -> Shield<impl Shieldable<Output = CommitOutcome>, Waiting> {
        let waiting = Waiting { hooks: std::mem::take(&mut self.hooks), deadline };
        Shield::new(Handle::current(), self.commit_and_wait(), waiting)
    }

    /// Cancellation: the connection is closed, and the commit may or may not happen.
    async fn commit_and_wait(mut self: Box<Self>) -> CommitOutcome {
        if let Some(failure) = self.over() {
            let failure = failure.clone();
            self.rollback().await;
            return CommitOutcome::Refused(failure);
        }
        let closing = self.closing();
        let ending = DB::commit(&closing);
        if let Some(guard) = ending.guard
            && let Some(error) = self.step(StepKind::Control, guard.into_owned()).await.error
        {
            let failure = failure_or_other::<DB>(&error);
            let has_ended = (DB::GUARD.has_ended)(Some(&failure));
            return CommitOutcome::Refused(if has_ended {
                ended_unseen("commit", Some(&failure))
            } else {
                failure
            });
        }
        let (interception, connection) = (self.interception.as_ref(), self.session.connection());
        let commit = send::<DB>(interception, connection, StepKind::Commit, ending.sql.into_owned());
        let reply = last_step(self.state.observation(), pin!(commit)).await;
        let outcome = outcome::<DB>(&reply, ending.before_commit);
        match (&outcome, &reply.error) {
            (CommitOutcome::Done, None) => match ending.after {
                None => self.release(),
                Some(after) => self.put_back(after.into_owned()).await,
            },
            (CommitOutcome::Refused(failure), _) if failure.ends_session() => {}
            // What ended the transaction may have left more on the session than a rollback undoes: locks on
            // tables, say.
            (CommitOutcome::Refused(failure), _)
                if failure.kind() == FailureKind::Aborted && closing.unwatched => {}
            (CommitOutcome::Refused(_), _) => {
                if DB::REFUSED_COMMIT_ENDS_TRANSACTION && !closing.unwatched {
                    self.release();
                } else {
                    self.rollback().await;
                }
            }
            _ => {}
        }
        outcome
    }

    /// Gives the connection back after a clean end.
    fn release(mut self) {
        if self.state.is_unwatched() {
            self.session.forget_settings();
        }
        self.session.release();
    }

    /// Sends a statement of the crate's own that is none of the unit's.
    async fn step(&mut self, kind: StepKind, sql: String) -> Reply {
        let (interception, connection) = (self.interception.as_ref(), self.session.connection());
        send::<DB>(interception, connection, kind, sql).await
    }

    /// Puts the session's settings back, and gives the connection back.
    async fn put_back(mut self: Box<Self>, settings: String) {
        let answered = timeout(ROLLBACK_LIMIT, DB::send_text(self.session.connection(), settings)).await;
        if matches!(answered, Ok(Reply { error: None, .. })) {
            self.release();
        }
    }

    /// Whether a transaction is over after a statement that failed like this.
    pub(crate) fn ends_with(failure: &Failure) -> bool {
        DB::survival(failure) == Survival::Over
    }

    /// Asks the server, before a rollback, what became of a transaction of which not every statement was
    /// seen. `converted` is what the unit has said of it.
    ///
    /// Costs a round trip where the unit had its hands on the connection, and nothing elsewhere.
    ///
    /// Cancellation: the connection is closed.
    pub(crate) async fn check_unwatched(&mut self, converted: Option<Failure>) -> Unseen {
        if !self.state.is_unwatched()
            || self.state.lost_its_place()
            || self.state.is_streaming.load(Ordering::Acquire)
            || self.state.over().is_some_and(DB::rolls_back_everything)
        {
            return Unseen::Nothing;
        }
        self.state.question(true);
        let asked = self.step(StepKind::Control, DB::GUARD.sql.to_owned());
        // A server that does not answer loses the connection, as the question stays on its way.
        let Ok(reply) = timeout(ROLLBACK_LIMIT, asked).await else { return Unseen::Nothing };
        self.state.question(false);
        let answer = reply.error.as_ref().map(failure_or_other::<DB>);
        if (DB::GUARD.has_ended)(answer.as_ref()) {
            self.state.distrust_session();
            return match converted {
                Some(failure) if DB::rolls_back_everything(&failure) => Unseen::Failed(failure),
                _ => Unseen::Ended(ended_unseen("rollback", answer.as_ref())),
            };
        }
        match converted {
            // The error was another database's, if this one has seen none.
            Some(_) if DB::EVERY_ERROR_ABORTS && answer.is_none() => Unseen::Nothing,
            Some(failure) => Unseen::Failed(failure),
            None => Unseen::Nothing,
        }
    }

    /// Rolls back and gives the connection back; closes it where that is in doubt. In a box of its own: in
    /// place, it would be in the future of every run, wherever one may end.
    ///
    /// Cancellation: the connection is closed, and the server rolls back.
    pub(crate) fn rollback(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // What is left of a stream may have no end.
            if self.state.lost_its_place() || self.state.is_streaming.load(Ordering::Acquire) {
                if !self.state.is_in_flight() {
                    self.session.close();
                }
                return;
            }
            let closing = self.closing();
            for _ in 0..ROLLBACKS {
                let (interception, connection) = (self.interception.as_ref(), self.session.connection());
                let sql = DB::rollback(&closing).into_owned();
                let rollback = send::<DB>(interception, connection, StepKind::Rollback, sql);
                let rollback = last_step(self.state.observation(), Box::pin(rollback));
                let Ok(reply) = timeout(ROLLBACK_LIMIT, rollback).await else { return };
                let refused = reply.error.as_ref().map(|error| failure_or_other::<DB>(error));
                match refused {
                    // There was nothing left to roll back.
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

/// Waits for the end of the transaction under the eyes of those who watch.
///
/// The step is pinned by the caller: moved in here, it would take its room twice in the future of every
/// commit.
async fn last_step(observation: Option<&Arc<RunClock>>, step: impl Future<Output = Reply> + Unpin) -> Reply {
    let Some(observation) = observation else { return step.await };
    observation.ending();
    let reply = counted(Some(observation), |times| &mut times.control, step).await;
    observation.ended_transaction();
    reply
}

fn outcome<DB: Backend>(reply: &Reply, before_commit: usize) -> CommitOutcome {
    // What comes behind the COMMIT changes nothing about it.
    if reply.completed > before_commit {
        return CommitOutcome::Done;
    }
    let Some(error) = &reply.error else {
        return CommitOutcome::Unknown(unanswered());
    };
    let failure = failure_or_other::<DB>(error);
    let spoke = matches!(error, sqlx::Error::Database(_));
    let at_the_guard = reply.completed < before_commit;
    if at_the_guard && spoke && (failure.is_definite() || !failure.ends_session()) {
        let has_ended = (DB::GUARD.has_ended)(Some(&failure));
        let is_aborted = matches!(failure.kind(), FailureKind::Aborted | FailureKind::Other);
        return CommitOutcome::Refused(match (has_ended, is_aborted) {
            (true, _) => ended_unseen("commit", Some(&failure)),
            (false, true) => failed_unseen(&failure),
            (false, false) => failure,
        });
    }
    if spoke && failure.kind() == FailureKind::Aborted && before_commit == 0 {
        CommitOutcome::Refused(ended_unseen("commit", Some(&failure)))
    } else if spoke && failure.is_definite() {
        CommitOutcome::Refused(failure)
    } else {
        CommitOutcome::Unknown(failure.into_commit_unknown())
    }
}

/// The transaction is the one that was opened, and has failed.
fn failed_unseen(said: &Failure) -> Failure {
    let message =
        format!("a statement had failed that was not seen, so nothing was stored. The server said: {said}");
    Failure::new(FailureKind::Aborted, message)
}

/// The transaction is not the one any more that was opened.
pub(super) fn ended_unseen(before: &str, said: Option<&Failure>) -> Failure {
    let said = said.map(|failure| format!(" The server said: {failure}")).unwrap_or_default();
    Failure::new(
        FailureKind::Aborted,
        format!(
            "something ended the transaction before its {before} (a statement that commits implicitly, or an error that \
             was not seen); what ran outside of it may be stored: look before you run the unit again.{said}"
        ),
    )
}

fn unanswered() -> Failure {
    Failure::new(FailureKind::CommitUnknown, "the server did not answer the commit in time").definite(false)
}
