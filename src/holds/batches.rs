//! Runs the batches of a [`Holds`](super::Holds).

use tokio::time::Instant;

use super::request::HoldRequest;
use super::runner::Runner;
use super::sweep::Swept;
use super::taking::{Committed, HoldResult, Taking};
use super::{HoldCall, HoldKey};
use crate::backend::Backend;
use crate::batching::{BatchLimits, BatchRunner, refuses_a_part};
use crate::error::Error;
use crate::transactor::{Options, Transactor};

impl<DB: Backend, K: HoldKey<DB>> Runner<DB, K> {
    /// Gives back the expired holds that a batch has found, and completes its calls. Returns those that are
    /// worth another attempt.
    async fn complete(&self, db: &impl Transactor<DB>, batch: Committed<K>) -> Vec<HoldCall<K>> {
        // If it fails, the calls are refused, as they would have been without the expired holds.
        let swept = self.give_back_expired(db, &batch.expired).await;
        let has_swept = swept.is_ok_and(Swept::has_ended_any);
        let is_refused =
            |result: &Result<HoldResult, Error>| matches!(result, Ok(HoldResult::Refused { .. }));
        let is_held =
            |(_, result): &&(_, Result<HoldResult, Error>)| matches!(result, Ok(HoldResult::Held { .. }));
        let held = batch.results.iter().filter(is_held).count();
        let (refused, others): (Vec<_>, Vec<_>) =
            batch.results.into_iter().partition(|(_, result)| is_refused(result));
        self.report(held, if has_swept { 0 } else { refused.len() });
        for (call, result) in others {
            call.complete(result);
        }
        if has_swept {
            return refused.into_iter().map(|(call, _)| call.given_back()).collect();
        }
        for (call, result) in refused {
            call.complete(result);
        }
        Vec::new()
    }

    /// Runs calls in a transaction. It is run again for refused calls after expired holds were given back,
    /// and in halves if the database refuses some calls.
    pub(super) async fn run_in_transactions(&self, db: &impl Transactor<DB>, calls: Vec<HoldCall<K>>) {
        let mut parts = vec![calls];
        while let Some(calls) = parts.pop() {
            let Some(deadline) = calls.iter().map(|call| call.deadline).max() else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            let mut taking = Taking::new(&self.settings, calls);
            let ended = db.transact(&Options::new().deadline(left), &mut taking).await;
            match taking.end(ended) {
                Ok(committed) => parts.push(self.complete(db, committed).await),
                Err((mut calls, error)) if calls.len() > 1 && refuses_a_part(error.kind()) => {
                    let later = calls.split_off(calls.len() / 2);
                    parts.extend([later, calls]);
                }
                Err((calls, error)) => {
                    for call in calls {
                        call.complete(Err(error.duplicate()));
                    }
                }
            }
        }
    }
}

impl<DB: Backend, K: HoldKey<DB>> BatchRunner<K, HoldRequest<K>, HoldResult> for Runner<DB, K> {
    fn limits(&self) -> BatchLimits {
        BatchLimits { capacity: self.settings.capacity, max_batches: 2 }
    }

    /// Runs a batch as a single statement, and then the remaining calls in transactions.
    async fn run(&self, calls: Vec<HoldCall<K>>) {
        let report = |held| self.report(held, 0);
        let mut rest = self.single_statement.apply(&self.db, self.settings.floor, calls, report).await;
        rest.sort_by_key(HoldCall::ticket);
        self.run_in_transactions(&self.db, rest).await;
    }
}
