//! Commit and rollback.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::{Backend, Reply, failure_or_other};
use crate::failure::{Failure, FailureKind};
use crate::intercept::StepKind;
use crate::observe::{Observation, counted};

use super::shield::{Finish, Shieldable};
use super::{End, Hooks, Shield, Tx, send};

/// How long a rollback is waited for. A server that does not answer loses the connection, and rolls back by itself.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// The outcome of a commit.
#[derive(Debug)]
pub(crate) enum Commit {
    /// It is stored.
    Done,
    /// It is not stored.
    Refused(Failure),
    /// It was sent, and nobody knows.
    Unknown(Failure),
}

impl Commit {
    /// The outcome of one that was waited for too long.
    pub(crate) fn unanswered() -> Self {
        Self::Unknown(unanswered())
    }

    /// What hooks are told.
    const fn end(&self) -> End {
        match self {
            Self::Done => End::Committed,
            Self::Refused(_) => End::RolledBack,
            Self::Unknown(_) => End::Unknown,
        }
    }
}

/// What waits for a commit.
pub(crate) struct Waiting {
    pub(crate) hooks: Hooks,
    deadline: Instant,
}

impl<F: Shieldable<Output = Commit>> Finish<F> for Waiting {
    fn finish(self, commit: Pin<Box<F>>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let end = timeout_at(self.deadline, commit).await.map_or(End::Unknown, |commit| commit.end());
            self.hooks.run(end).await;
        })
    }
}

impl<DB: Backend> Tx<DB> {
    /// Commits. Answers the outcome, and the hooks that are to be run then.
    ///
    /// Cancellation: goes on in the background until the deadline, hooks included. Given up, the connection is closed, and
    /// its place in the pool is free at once.
    pub(crate) fn commit(
        mut self: Box<Self>,
        deadline: Instant,
    ) -> Shield<impl Shieldable<Output = Commit>, Waiting> {
        let waiting = Waiting { hooks: std::mem::take(&mut self.hooks), deadline };
        Shield::new(Handle::current(), self.commit_and_wait(), waiting)
    }

    /// Cancellation: the connection is closed, and the commit may or may not happen.
    async fn commit_and_wait(mut self: Box<Self>) -> Commit {
        if let Some(failure) = self.over() {
            let failure = failure.clone();
            self.rollback().await;
            return Commit::Refused(failure);
        }
        let closing = self.closing();
        let ending = DB::commit(&closing);
        let (interception, connection) = (self.interception.as_ref(), self.session.connection());
        let commit = send::<DB>(interception, connection, StepKind::Commit, ending.sql.into_owned());
        let reply = last_step(self.journal.observation(), pin!(commit)).await;
        let outcome = outcome::<DB>(&reply, ending.before_commit);
        match (&outcome, &reply.error) {
            (Commit::Done, None) => self.session.release(),
            (Commit::Refused(failure), _) if failure.kind() != FailureKind::ConnectionLost => {
                if DB::REFUSED_COMMIT_ENDS_TRANSACTION && !closing.unwatched {
                    self.session.release();
                } else {
                    self.rollback().await;
                }
            }
            _ => {}
        }
        outcome
    }

    /// Rolls back and gives the connection back; closes it where that is in doubt. In a box of its own: in place, it would be
    /// in the future of every run, wherever one may end.
    ///
    /// Cancellation: the connection is closed, and the server rolls back.
    pub(crate) fn rollback(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.journal.lost_its_place() {
                return;
            }
            let closing = self.closing();
            let (interception, connection) = (self.interception.as_ref(), self.session.connection());
            let sql = DB::rollback(&closing).into_owned();
            let rollback = send::<DB>(interception, connection, StepKind::Rollback, sql);
            let rollback = last_step(self.journal.observation(), Box::pin(rollback));
            let clean = match timeout(ROLLBACK_LIMIT, rollback).await {
                Ok(Reply { error: None, .. }) => true,
                // There was nothing left to roll back.
                Ok(Reply { error: Some(error), .. }) => {
                    failure_or_other::<DB>(&error).kind() == FailureKind::Aborted
                }
                Err(_) => false,
            };
            if clean {
                self.session.release();
            }
        })
    }
}

/// Waits for the end of the transaction under the eyes of those who watch.
///
/// The step is pinned by the caller: moved in here, it would take its room twice in the future of every commit.
async fn last_step(
    observation: Option<&Arc<Observation>>,
    step: impl Future<Output = Reply> + Unpin,
) -> Reply {
    let Some(observation) = observation else { return step.await };
    observation.ending();
    let reply = counted(Some(observation), |times| &mut times.control, step).await;
    observation.ended_transaction();
    reply
}

fn outcome<DB: Backend>(reply: &Reply, before_commit: usize) -> Commit {
    // What comes behind the COMMIT changes nothing about it.
    if reply.completed > before_commit {
        return Commit::Done;
    }
    let Some(error) = &reply.error else {
        return Commit::Unknown(unanswered());
    };
    let failure = failure_or_other::<DB>(error);
    let spoke = matches!(error, sqlx::Error::Database(_));
    if reply.completed < before_commit && spoke && !is_end_of_session(&failure) {
        return Commit::Refused(not_ours_any_more(failure));
    }
    if spoke && failure.is_definite() {
        Commit::Refused(failure)
    } else {
        Commit::Unknown(failure.into_commit_unknown())
    }
}

fn is_end_of_session(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::ConnectionLost | FailureKind::CommitUnknown | FailureKind::Unavailable
    )
}

/// The guard in front of the COMMIT failed. Where the server only says that there is no such transaction any more, say
/// what that means.
fn not_ours_any_more(failure: Failure) -> Failure {
    if failure.kind() == FailureKind::Aborted || failure.kind() == FailureKind::Other {
        Failure::new(
            FailureKind::Aborted,
            format!(
                "something ended the transaction before its commit (a statement that commits implicitly, or an error \
                 that was not seen); what ran outside of it may be stored. The server said: {failure}"
            ),
        )
    } else {
        failure
    }
}

fn unanswered() -> Failure {
    Failure::new(FailureKind::CommitUnknown, "the server did not answer the commit in time").definite(false)
}
