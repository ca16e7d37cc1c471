//! Runs the batches of a [`Holds`](super::Holds).

use super::request::HoldRequest;
use super::runner::Runner;
use super::sweep::Swept;
use super::taking::{Committed, HoldResult, Taking};
use super::{HoldCall, HoldKey};
use crate::backend::Backend;
use crate::batching::{BatchLimits, BatchRunner, run_in_parts};
use crate::error::Error;
use crate::transactor::Transactor;

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
        run_in_parts(calls, |calls, options| async move {
            let mut taking = Taking::new(&self.settings, calls);
            let ended = db.transact(&options, &mut taking).await;
            Ok(self.complete(db, taking.end(ended)?).await)
        })
        .await;
    }
}

impl<DB: Backend, K: HoldKey<DB>> BatchRunner<K, HoldRequest<K>, HoldResult> for Runner<DB, K> {
    fn limits(&self) -> BatchLimits {
        self.settings.limits
    }

    /// Runs a batch as a single statement, and then the remaining calls in transactions.
    async fn run(&self, calls: Vec<HoldCall<K>>) {
        let report = |held| self.report(held, 0);
        let mut rest = self.single_statement.apply(&self.db, self.settings.floor, calls, report).await;
        rest.sort_by_key(HoldCall::ticket);
        self.run_in_transactions(&self.db, rest).await;
    }
}
