//! The attempts at a unit of work, each on the node that is in use.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use super::nodes::{CheckTimes, Nodes};
use crate::backend::Backend;
use crate::events::RunOutcome;
use crate::failure::{Failure, FailureKind};
use crate::isolation::Access;
use crate::sql_text::Syntax;
use crate::strategy::{Plan, Strategy};
use crate::transactor::attempt::UnitAttempts;
use crate::transactor::deadline::Timer;
use crate::transactor::retryable::{AttemptOutcome, Retryable};
use crate::transactor::waiting::Permits;
use crate::transactor::{Ended, PoolTransactor};

/// The attempts of one run.
pub(super) struct FailoverAttempts<'a, DB: Backend, S> {
    pub(super) transactors: &'a [PoolTransactor<DB, S>],
    pub(super) unit: UnitAttempts<'a, DB>,
    pub(super) nodes: &'a Arc<Nodes<DB>>,
    pub(super) times: CheckTimes,
}

impl<DB: Backend, S: Strategy> Retryable for FailoverAttempts<'_, DB, S> {
    type Output = Ended;

    const SYSTEM: &'static str = DB::SYSTEM;

    const SYNTAX: Syntax = DB::SYNTAX;

    fn outcome(output: &Ended) -> RunOutcome {
        UnitAttempts::<DB>::outcome(output)
    }

    async fn attempt(
        &mut self,
        plan: Plan,
        number: u32,
        permits: Permits,
        timer: &mut Timer,
    ) -> AttemptOutcome<Ended> {
        let patience = self.times.patience;
        self.nodes.return_to_preferred(self.times);
        let Some(turn) = timer.within(pin!(self.nodes.turn())).await else {
            return AttemptOutcome::OutOfTime { failure: None, during: "for units on another pool to end" };
        };
        let node = self.nodes.current();
        self.unit.move_to(self.transactors[node].pool(), self.transactors[node].reuse());
        timer.give_up_when(Box::pin(self.nodes.clone().silence_of(node, patience)));
        let writes = plan.access == Access::ReadWrite;
        let outcome = self.unit.attempt(plan, number, permits, timer).await;
        let is_given_up = timer.has_given_up();
        drop(turn);
        if is_given_up {
            self.nodes.leave(node);
        }
        match outcome {
            AttemptOutcome::OutOfTime { .. } if is_given_up && !timer.clock.is_over() => {
                AttemptOutcome::failed(silent::<DB>(self.transactors[node].pool(), patience))
            }
            outcome => {
                if !is_given_up {
                    judge(self.nodes, node, patience, (writes, &outcome), timer).await;
                }
                outcome
            }
        }
    }

    fn unresolved(&self) -> Option<Failure> {
        self.unit.unresolved()
    }

    async fn ended(&mut self, timer: &mut Timer) {
        self.unit.ended(timer).await;
    }
}

/// Leaves the node if the outcome of an attempt on it, and the node itself, give a reason to.
async fn judge<DB: Backend>(
    nodes: &Nodes<DB>,
    node: usize,
    patience: Duration,
    (writes, outcome): (bool, &AttemptOutcome<Ended>),
    timer: &mut Timer,
) {
    let (AttemptOutcome::Failed { failure, .. } | AttemptOutcome::Final(failure)) = outcome else { return };
    match failure.kind() {
        FailureKind::ReadOnly if writes => return nodes.leave(node),
        FailureKind::ConnectionLost | FailureKind::CommitUnknown | FailureKind::Unavailable => {}
        _ => return,
    }
    let health = timer.within(pin!(nodes.health(node, patience))).await;
    if health.is_some_and(|health| health != Health::TakesWrites) {
        nodes.leave(node);
    }
}

/// The failure of an attempt that had not sent its COMMIT when its node stopped answering.
fn silent<DB: Backend>(pool: &sqlx::Pool<DB>, patience: Duration) -> Failure {
    let address = DB::address(&pool.connect_options());
    let message = format!("{address} did not answer for {patience:?}, so the attempt on it was given up");
    Failure::new(FailureKind::ConnectionLost, message).retryable(true)
}
