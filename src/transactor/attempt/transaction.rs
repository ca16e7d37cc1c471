//! One attempt at a unit of work: opens a transaction and runs the unit in it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use sqlx::Pool;
use tokio::time::Instant;

use super::gate_stage::GateStage;
use super::opening::AttemptOpening;
use super::prior_commit::PriorCommit;
use super::unseen::unseen;
use super::{has_room_to_wait_inside, waited_for_the_pool};
use crate::backend::{Backend, Capability};
use crate::boxed::boxed;
use crate::events::RunOutcome;
use crate::failure::Failure;
use crate::sql_text::Syntax;
use crate::strategy::{CommitMarker, Plan};
use crate::telemetry::watched;
use crate::transactor::deadline::Timer;
use crate::transactor::options::Options;
use crate::transactor::retryable::{AttemptOutcome, Retryable};
use crate::transactor::waiting::Permits;
use crate::transactor::{Ended, Unit};
use crate::tx::{ConnectionReuse, Hooks, Tx, TxEnd, Unwatched, cut_short, holding, is_used_up};

/// The attempts at a unit of work, each in a transaction of its own.
pub(in crate::transactor) struct UnitAttempts<'a, DB: Backend> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) reuse: &'a ConnectionReuse<DB>,
    pub(super) options: &'a Options,
    pub(super) unit: &'a mut dyn Unit<DB>,
    pub(super) prior: PriorCommit,
    /// The hooks of the last attempt whose unit ran, until they run.
    pub(super) hooks: Hooks,
}

impl<'a, DB: Backend> UnitAttempts<'a, DB> {
    pub(in crate::transactor) fn new(
        pool: &'a Pool<DB>,
        reuse: &'a ConnectionReuse<DB>,
        options: &'a Options,
        unit: &'a mut dyn Unit<DB>,
    ) -> Self {
        Self { pool, reuse, options, unit, prior: PriorCommit::None, hooks: Hooks::default() }
    }

    /// Runs the next attempt on another pool, which leads to the same database.
    pub(in crate::transactor) fn move_to(&mut self, pool: &'a Pool<DB>, reuse: &'a ConnectionReuse<DB>) {
        (self.pool, self.reuse) = (pool, reuse);
    }
}

/// A transaction that is open, with the permits under which it runs.
pub(super) struct OpenAttempt<DB: Backend> {
    pub(super) tx: Box<Tx<DB>>,
    pub(super) marker: Option<CommitMarker>,
    pub(super) permits: Permits,
    stage: GateStage,
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
        number: u32,
        permits: Permits,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        // Boxed, because it is rare.
        if self.prior.needs_lookup()
            && let Some(outcome) = Box::pin(self.check_prior_commit(timer)).await
        {
            return outcome;
        }
        // Boxed, so that a run that waits for a connection holds no room for what follows.
        match boxed(|| self.open(plan, number, permits, timer)).await {
            Ok(open) => boxed(|| self.run_unit(open, timer)).await,
            Err(outcome) => outcome,
        }
    }

    fn unresolved(&self) -> Option<Failure> {
        self.prior.failure()
    }

    async fn ended(&mut self, timer: &mut Timer) {
        let (hooks, end) = match self.prior.take(None) {
            Some(attempt) => (attempt.hooks, TxEnd::Unknown),
            None => (std::mem::take(&mut self.hooks), TxEnd::RolledBack),
        };
        timer.run_hooks(hooks, end).await;
    }
}

impl<DB: Backend> UnitAttempts<'_, DB> {
    /// Opens a transaction, before or after the turn at the gate.
    async fn open(
        &mut self,
        plan: Plan,
        number: u32,
        mut permits: Permits,
        timer: &mut Timer,
    ) -> Result<OpenAttempt<DB>, AttemptOutcome<Ended>> {
        let marker = self.next_marker(number);
        // Rows must not stay locked while the run waits for its turn.
        let rows = self.unit.rows();
        let opens_bare = marker.is_none() && rows.is_none() && !self.options.limits_idling();
        let room = opens_bare && has_room_to_wait_inside(self.pool, self.options);
        let mut stage = GateStage::of::<DB>(&plan, room);
        loop {
            stage.wait(GateStage::Outside, permits.gate.as_deref_mut(), self.options, timer).await?;
            let (asked, connected) = (Instant::now(), AtomicBool::new(false));
            let waits_at_gate = stage == GateStage::Inside && permits.gate.is_some();
            let opening = AttemptOpening {
                pool: self.pool,
                reuse: self.reuse,
                options: self.options,
                plan,
                attempt: number,
                waits_at_gate,
                gives_way_to: permits.gives_way_to(),
                connected: &connected,
                clock: timer.clock,
                marker,
                observation: timer.observation.clone(),
                rows: rows.as_deref(),
            };
            let tx = match timer.within(pin!(opening.run())).await {
                Some(Ok(tx)) => tx,
                // Boxed, because in place it would enlarge the future of every run.
                Some(Err(failure)) => return Err(Box::pin(self.not_opened(failure, timer)).await),
                None => {
                    let failure = cut_short(self.pool, asked, connected.load(Ordering::Acquire));
                    return Err(AttemptOutcome::out_of_time("for a transaction to begin", failure));
                }
            };
            let is_waiting = waits_at_gate
                && permits.gate.as_mut().is_some_and(|permit| permit.admitted().now_or_never().is_none());
            if !(is_waiting && tx.limits_idling()) {
                return Ok(OpenAttempt { tx, marker, permits, stage });
            }
            // The server would close the session while it idles until its turn at the gate.
            tx.rollback().await;
            stage = GateStage::Outside;
        }
    }

    /// Returns the outcome of an attempt whose transaction could not be opened. A unique violation can only
    /// come from the marker's row, and means that the prior commit is stored.
    async fn not_opened(&mut self, failure: Failure, timer: &mut Timer) -> AttemptOutcome<Ended> {
        if failure.is_unique_violation() && matches!(self.prior, PriorCommit::Unknown { .. }) {
            return self.operation_is_stored(timer).await;
        }
        AttemptOutcome::failed(failure)
    }

    /// Runs the unit in the transaction that was opened for it, and ends the transaction.
    async fn run_unit(&mut self, mut open: OpenAttempt<DB>, timer: &mut Timer) -> AttemptOutcome<Ended> {
        if open.tx.engine().has(Capability::UniqueKeysFence) && open.marker.is_some() {
            // This transaction has locked the marker's row, so the prior commit can no longer succeed.
            self.prior = PriorCommit::None;
        }
        let gate = open.permits.gate.as_deref_mut();
        if let Err(outcome) = open.stage.wait(GateStage::Inside, gate, self.options, timer).await {
            open.tx.rollback().await;
            return outcome;
        }
        // Discarded only now: until the unit runs again, its last attempt is the previous one.
        self.hooks = Hooks::default();
        let observation = timer.observation.clone();
        let pool = self.pool;
        let decision = {
            let unit = pin!(holding(pool, self.unit.attempt(&mut open.tx)));
            timer.within(pin!(watched(observation.as_deref(), || is_used_up(pool), unit))).await
        };
        if open.tx.fences_earlier() {
            self.prior = PriorCommit::None;
        }
        let Some((decision, converted)) = decision else {
            self.hooks = open.tx.take_hooks();
            let during = match open.tx.is_in_flight() {
                true => "for the answer to a statement of the unit",
                false => "for the unit itself, which had no statement in flight",
            };
            return AttemptOutcome::OutOfTime { failure: waited_for_the_pool(pool, &open.tx), during };
        };
        // Boxed, because in place it would enlarge the future of every run.
        let unseen = if open.tx.is_unwatched() {
            Box::pin(unseen(&mut open.tx, decision, converted)).await
        } else {
            None
        };
        if let Some(Unwatched::Ended(failure)) = unseen {
            self.roll_back(open.tx).await;
            return AttemptOutcome::failed(failure);
        }
        self.end(open, decision, unseen, timer).await
    }
}
