//! One attempt at a unit of work.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::gate_stage::GateStage;
use super::opening::Opening;
use super::unseen::{explained, unseen};
use super::{has_room_to_wait_inside, waited_for_the_pool};
use crate::backend::Backend;
use crate::events::RunOutcome;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::sql_text::Syntax;
use crate::strategy::{CommitMarker, Plan, Resolve};
use crate::telemetry::watched;
use crate::transactor::commit_check::{CommitStatus, commit_status};
use crate::transactor::deadline::Timer;
use crate::transactor::lines::Standing;
use crate::transactor::lone::sent_once;
use crate::transactor::options::Options;
use crate::transactor::retry::is_unique_violation;
use crate::transactor::tries::{AttemptOutcome, GiveUpWith, Retryable};
use crate::transactor::{Decision, Ended, Unit};
use crate::tx::is_used_up;
use crate::tx::{
    CommitOutcome, ConnectionReuse, Hooks, RightOfWay, Shield, Tx, TxEnd, Unwatched, cut_short, holding,
};

/// A unit of work, in a transaction.
pub(in crate::transactor) struct UnitAttempts<'a, DB: Backend> {
    pool: &'a Pool<DB>,
    reuse: &'a ConnectionReuse<DB>,
    options: &'a Options,
    unit: &'a mut dyn Unit<DB>,
    /// Those of the last attempt whose unit ran, which nothing has run yet.
    hooks: Hooks,
    /// What the last attempt can be found by.
    marker: Option<CommitMarker>,
    /// What its opening answered, to ask for it by.
    answered: Vec<i64>,
    /// To whom the attempt gives way.
    gives_way_to: Option<RightOfWay>,
    /// The last commit whose answer never came, and the hooks that wait for it.
    unresolved: Option<(Failure, Hooks)>,
}

impl<'a, DB: Backend> UnitAttempts<'a, DB> {
    pub(in crate::transactor) fn new(
        pool: &'a Pool<DB>,
        reuse: &'a ConnectionReuse<DB>,
        options: &'a Options,
        unit: &'a mut dyn Unit<DB>,
    ) -> Self {
        Self {
            pool,
            reuse,
            options,
            unit,
            hooks: Hooks::default(),
            marker: None,
            answered: Vec::new(),
            gives_way_to: None,
            unresolved: None,
        }
    }
}

impl<DB: Backend> Retryable for UnitAttempts<'_, DB> {
    type Output = Ended;

    const SYSTEM: &'static str = DB::SYSTEM;

    const SYNTAX: Syntax = DB::SYNTAX;

    fn outcome(output: &Ended) -> RunOutcome {
        match output {
            Ended::Committed => RunOutcome::Committed,
            Ended::RolledBack => RunOutcome::RolledBack,
        }
    }

    async fn attempt(
        &mut self,
        plan: Plan,
        attempt: u32,
        mut standing: Standing,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        self.gives_way_to = standing.gives_way_to();
        if let Some(outcome) = self.look_back(timer).await {
            return outcome;
        }
        self.leave_trace();
        let opens_bare = self.marker.is_none() && !self.options.limits_idling();
        let mut turn =
            GateStage::of::<DB>(&plan, opens_bare && has_room_to_wait_inside(self.pool, self.options));
        loop {
            if let Some(outcome) = turn
                .wait(GateStage::Outside, standing.permit.as_mut(), self.options.interceptors(), timer)
                .await
            {
                return outcome;
            }
            let (asked, connected) = (Instant::now(), AtomicBool::new(false));
            let waits_at_gate = turn == GateStage::Inside && standing.permit.is_some();
            let opening = self.opening(plan, attempt, waits_at_gate, &connected, timer);
            let opened = timer.within(pin!(opening.run())).await;
            let tx = match opened {
                Some(Ok(tx)) => tx,
                Some(Err(failure)) => return self.not_opened(failure, timer).await,
                None => {
                    let connected = connected.load(Ordering::Acquire);
                    let failure = cut_short(self.pool, asked, connected);
                    return AttemptOutcome::out_of_time("for a transaction to begin", failure);
                }
            };
            let idles = waits_at_gate
                && standing.permit.as_mut().is_some_and(|place| place.admitted().now_or_never().is_none());
            if !(idles && tx.limits_idling()) {
                return self.run_unit(tx, turn, standing, timer).await;
            }
            // The server would close a session that idles until it is its turn.
            tx.rollback().await;
            turn = GateStage::Outside;
        }
    }

    fn unresolved(&self) -> Option<Failure> {
        self.unresolved.as_ref().map(|(failure, _)| failure.clone())
    }

    async fn ended(&mut self, timer: &mut Timer) {
        match self.unresolved.take() {
            Some((_, hooks)) => run_hooks(hooks, TxEnd::Unknown, timer).await,
            None => run_hooks(std::mem::take(&mut self.hooks), TxEnd::RolledBack, timer).await,
        }
    }
}

impl<DB: Backend> UnitAttempts<'_, DB> {
    /// Runs the unit in the transaction that was opened for it, and ends the transaction.
    async fn run_unit(
        &mut self,
        mut tx: Box<Tx<DB>>,
        turn: GateStage,
        mut standing: Standing,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        if DB::unique_keys_fence(tx.engine()) && self.marker.is_some() {
            self.unresolved = None;
        }
        if self.marker == Some(CommitMarker::TransactionStatus) {
            self.answered = tx.answered().to_vec();
        }
        if let Some(outcome) =
            turn.wait(GateStage::Inside, standing.permit.as_mut(), self.options.interceptors(), timer).await
        {
            tx.rollback().await;
            return outcome;
        }
        // Only now: if no further attempt had begun, the one before would have been the last one.
        self.hooks = Hooks::default();
        let observation = timer.observation.clone();
        let pool = self.pool;
        let unit = holding(pool, self.unit.attempt(&mut tx));
        let decision = timer.within(pin!(watched(observation.as_deref(), || is_used_up(pool), unit))).await;
        let Some((decision, converted)) = decision else {
            self.hooks = tx.take_hooks();
            let during = match tx.is_in_flight() {
                true => "for the answer to a statement of the unit",
                false => "for the unit itself, which had no statement in flight",
            };
            return AttemptOutcome::OutOfTime { failure: waited_for_the_pool(self.pool, &tx), during };
        };
        // In a box of its own: in place, it would be in the future of every run.
        let unseen =
            if tx.is_unwatched() { Box::pin(unseen(&mut tx, decision, converted)).await } else { None };
        if let Some(Unwatched::Ended(failure)) = unseen {
            self.roll_back(tx).await;
            return AttemptOutcome::failed(failure);
        }
        self.end(tx, decision, unseen, standing, timer).await
    }

    /// Ends the transaction as the unit wishes, unless a failure stands in the way.
    async fn end(
        &mut self,
        mut tx: Box<Tx<DB>>,
        decision: Decision,
        unseen: Option<Unwatched>,
        standing: Standing,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        let failure = match (tx.over(), decision) {
            (Some(failure), _) => Some(failure.clone()),
            // Databases that undo the statement alone leave it to the unit what it makes of a violation.
            (None, Decision::RollBack) => tx.unique_violation().cloned(),
            (None, Decision::Commit | Decision::Abandon | Decision::AlreadyCommitted) => None,
        };
        let failure = match failure {
            Some(failure) => Some(explained(failure, &mut tx, self.pool, timer).await),
            None => None,
        };
        match (failure, decision) {
            (_, Decision::Abandon) => {
                self.roll_back(tx).await;
                AttemptOutcome::Done(Ended::RolledBack)
            }
            (_, Decision::AlreadyCommitted) => {
                tx.rollback().await;
                self.already_stored(timer).await
            }
            (Some(failure), Decision::Commit | Decision::RollBack) if tx.may_be_stored_in_part(&failure) => {
                self.roll_back(tx).await;
                AttemptOutcome::Final(sent_once(failure))
            }
            (Some(failure), Decision::Commit) => {
                self.roll_back(tx).await;
                AttemptOutcome::Failed { failure, otherwise: GiveUpWith::Swallowed }
            }
            (Some(failure), Decision::RollBack) => {
                self.roll_back(tx).await;
                AttemptOutcome::Failed { failure, otherwise: GiveUpWith::Own(Ended::RolledBack) }
            }
            (None, Decision::RollBack) => {
                let is_fenced = DB::unique_keys_fence(tx.engine());
                self.roll_back(tx).await;
                match self.unresolved() {
                    // Another server may yet store what an earlier attempt has sent.
                    Some(unknown) if !is_fenced => AttemptOutcome::failed(unknown),
                    // This attempt had locked the row of the earlier one: nothing is left that could still be
                    // stored.
                    _ => {
                        self.unresolved = None;
                        AttemptOutcome::Done(Ended::RolledBack)
                    }
                }
            }
            (None, Decision::Commit) if timer.clock.is_over() => {
                self.roll_back(tx).await;
                AttemptOutcome::OutOfTime {
                    failure: None,
                    during: "for the unit itself, which ended too late to commit",
                }
            }
            (None, Decision::Commit) => match (self.commit(tx, standing, timer).await, unseen) {
                (AttemptOutcome::Failed { failure, .. }, Some(Unwatched::Failed(cause)))
                    if failure.kind() == FailureKind::Aborted =>
                {
                    AttemptOutcome::Failed { failure: cause, otherwise: GiveUpWith::Swallowed }
                }
                (outcome, _) => outcome,
            },
        }
    }

    fn roll_back(&mut self, mut tx: Box<Tx<DB>>) -> BoxFuture<'static, ()> {
        self.hooks = tx.take_hooks();
        tx.rollback()
    }

    async fn commit(
        &mut self,
        tx: Box<Tx<DB>>,
        standing: Standing,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        let reads_only = tx.plan().access == Access::ReadOnly;
        let mut committing = tx.commit(timer.clock.deadline);
        let (commit, hooks) = match timer.within(&mut committing).await {
            Some((commit, waiting)) => (commit, waiting.hooks),
            None => {
                let waiting = committing.give_up();
                (CommitOutcome::unanswered(), waiting.map(|waiting| waiting.hooks).unwrap_or_default())
            }
        };
        // Nobody waits in line for hooks.
        drop(standing);
        match commit {
            CommitOutcome::Done => {
                self.unresolved = None;
                run_hooks(hooks, TxEnd::Committed, timer).await;
                AttemptOutcome::Done(Ended::Committed)
            }
            CommitOutcome::Refused(failure) => {
                self.hooks = hooks;
                AttemptOutcome::failed(failure)
            }
            // Nothing was written, so nothing can have been stored or lost.
            CommitOutcome::Unknown(failure) if reads_only && timer.clock.is_over() => {
                self.hooks = hooks;
                AttemptOutcome::OutOfTime { failure: Some(nothing_stored(&failure)), during: COMMIT }
            }
            CommitOutcome::Unknown(failure) if reads_only => {
                self.hooks = hooks;
                AttemptOutcome::failed(nothing_stored(&failure))
            }
            CommitOutcome::Unknown(failure) => {
                self.unresolved = Some((failure.clone(), hooks));
                let is_found = self.marker.is_some() || self.unit.finds_its_commits();
                AttemptOutcome::failed(failure.retryable(is_found))
            }
        }
    }

    /// Each attempt writes an id of its own, until a commit goes unanswered: from then on that one's, so that
    /// at most one of them is ever stored.
    fn leave_trace(&mut self) {
        let keeps = self.unresolved.is_some() && self.marker.is_some();
        if !keeps {
            // One marker is enough.
            let wanted = self.options.resolves_commits().filter(|_| !self.unit.finds_its_commits());
            self.marker = wanted.map(|by| match by {
                Resolve::Operation => CommitMarker::Operation(rand::random()),
                Resolve::TransactionStatus => CommitMarker::TransactionStatus,
            });
        }
    }

    /// Asks for the commit that went unanswered, where it left nothing that the next attempt would run into.
    /// Answers the outcome of this attempt, unless the unit is to be run.
    async fn look_back(&mut self, timer: &mut Timer) -> Option<AttemptOutcome<Ended>> {
        if self.marker != Some(CommitMarker::TransactionStatus) {
            return None;
        }
        let unknown = self.unresolved()?;
        let commit_status = timer.within(pin!(commit_status(self.pool, &self.answered))).await;
        let Some(commit_status) = commit_status else {
            return Some(AttemptOutcome::OutOfTime { failure: None, during: COMMIT });
        };
        match commit_status {
            Ok(CommitStatus::Committed) => Some(self.already_stored(timer).await),
            Ok(CommitStatus::Aborted) => {
                self.unresolved = None;
                None
            }
            Ok(CommitStatus::Pending) => Some(AttemptOutcome::failed(unknown.retryable(true))),
            Ok(CommitStatus::Unknown) => Some(AttemptOutcome::failed(unknown)),
            Err(failure) => Some(AttemptOutcome::failed(failure)),
        }
    }

    fn opening<'o>(
        &'o self,
        plan: Plan,
        attempt: u32,
        waits_at_gate: bool,
        connected: &'o AtomicBool,
        timer: &Timer,
    ) -> Opening<'o, DB> {
        let (pool, reuse, options, marker) = (self.pool, self.reuse, self.options, self.marker);
        let (clock, observation) = (timer.clock, timer.observation.clone());
        let gives_way_to = self.gives_way_to.clone();
        Opening {
            pool,
            reuse,
            options,
            plan,
            attempt,
            waits_at_gate,
            gives_way_to,
            connected,
            clock,
            marker,
            observation,
        }
    }

    /// An id that is there already is the answer that the commit never gave.
    async fn not_opened(&mut self, failure: Failure, timer: &mut Timer) -> AttemptOutcome<Ended> {
        if !failure.is_unique_violation() {
            let is_missing =
                failure.kind() == FailureKind::Other && failure.message().contains("atomically_operation");
            let note = "make the table with `create_operation_table`";
            return AttemptOutcome::failed(if is_missing { failure.with_note(note) } else { failure });
        }
        if self.unresolved.is_some() {
            self.already_stored(timer).await
        } else {
            AttemptOutcome::failed(failure)
        }
    }

    /// The commit that went unanswered was stored.
    async fn already_stored(&mut self, timer: &mut Timer) -> AttemptOutcome<Ended> {
        // Attempts that came after the commit rolled back, but the unit did not.
        self.hooks = Hooks::default();
        if let Some((_, hooks)) = self.unresolved.take() {
            run_hooks(hooks, TxEnd::Committed, timer).await;
        }
        AttemptOutcome::Done(Ended::Committed)
    }
}

const COMMIT: &str = "for the answer to the commit";

/// What a commit without an answer is to a unit that only reads.
fn nothing_stored(unknown: &Failure) -> Failure {
    Failure::new(FailureKind::ConnectionLost, unknown.message()).retryable(true)
}

/// Hooks are waited for until the deadline, and finished in any case.
async fn run_hooks(hooks: Hooks, end: TxEnd, timer: &mut Timer) {
    if !hooks.is_empty() {
        timer.within(Shield::new(Handle::current(), hooks.run(end), ())).await;
    }
}
