//! Batches that are applied in one round trip.

use std::future::ready;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::SqlStr;
use tokio::time::Instant;

use super::Call;
use crate::backend::{Backend, Engine};
use crate::strategies::Pessimistic;
use crate::strategy::{Limits, OwnLockLimit};
use crate::transactor::{Options, PoolTransactor};

/// How many batches skip the single statement after it failed for most rows of a batch.
const SKIPS: u32 = 16;

/// The rows that a statement has changed, each with a number that it returns.
pub(crate) type ChangedRows = Vec<(usize, i64)>;

/// A batch that may be applied by a single statement.
pub(crate) trait StatementBatch<DB: Backend>: Send {
    type Key: Ord + Clone + Send + Sync;
    type Request: Send + Sync;
    type Outcome: Send;

    /// The calls of the batch.
    fn calls(&mut self) -> &mut Vec<Call<Self::Key, Self::Request, Self::Outcome>>;

    /// Sums the calls for each row, after they were taken.
    fn sum(&mut self);

    /// Returns whether the engine has what the statement needs.
    fn runs_on(&self, engine: &Engine) -> bool;

    /// Returns how long the statement is to wait for a lock if this much time is left to each call; `None` if
    /// too little is left.
    fn lock_wait(&self, left: Duration) -> Option<Duration>;

    /// Returns how many rows are to be changed.
    fn rows(&self) -> usize;

    /// Sends the statement; `None` if there is nothing to change. The future does not borrow the batch.
    fn send<'c>(
        &self,
        connection: &'c mut DB::Connection,
        limits: &Limits,
    ) -> Option<BoxFuture<'c, Result<ChangedRows, sqlx::Error>>>;

    /// Completes the calls on the rows that were changed, and returns the others.
    fn complete(self, changed: &[(usize, i64)]) -> Vec<Call<Self::Key, Self::Request, Self::Outcome>>;
}

/// The calls of a batch.
type Calls<DB, B> = Vec<
    Call<
        <B as StatementBatch<DB>>::Key,
        <B as StatementBatch<DB>>::Request,
        <B as StatementBatch<DB>>::Outcome,
    >,
>;

/// Sends single statements, each of which is a whole transaction, and stops for some batches after a failure.
///
/// # Why the short lock timeout?
///
/// While a transaction waits for its locks, a caller may still withdraw its call, and knows that nothing was
/// stored. A call in a single statement can no longer be withdrawn, so the wait must end before the deadline
/// of every call.
#[derive(Debug, Default)]
pub(crate) struct SingleStatements {
    /// The number of batches that are still to skip the statement.
    skips: AtomicU32,
}

impl SingleStatements {
    /// Applies and completes calls by a statement. Returns the calls that are left to a transaction.
    pub(crate) async fn apply<DB: Backend, B: StatementBatch<DB>>(
        &self,
        transactor: &PoolTransactor<DB, Pessimistic>,
        sql: SqlStr,
        mut batch: B,
    ) -> Calls<DB, B> {
        let Some(deadline) = batch.calls().iter().map(|call| call.deadline).max() else {
            return std::mem::take(batch.calls());
        };
        let is_skipped =
            self.skips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let left = deadline.saturating_duration_since(Instant::now());
        let transactor = transactor.clone().options(Options::new().deadline(left).attempts(1));
        // The time is checked before a connection is acquired, and again when there is one.
        if is_skipped
            || !transactor.engine().await.is_ok_and(|engine| batch.runs_on(&engine))
            || lock_wait(&mut batch).is_none()
        {
            return std::mem::take(batch.calls());
        }
        let batch = Mutex::new(batch);
        let changed = transactor
            .run_on_connection(sql, |connection, limit: Duration| {
                let mut batch = lock(&batch);
                let Some(lock_wait) = lock_wait(&mut *batch) else {
                    return Box::pin(ready(Ok(Vec::new())));
                };
                batch.calls().retain_mut(Call::take);
                batch.sum();
                // Options with limits of their own never reach this point: a transaction handles them.
                let (left, lock) = (Some(limit), Some(lock_wait));
                let limits =
                    Limits { left, lock, statement: None, idle: None, own_lock: OwnLockLimit::default() };
                batch.send(connection, &limits).unwrap_or_else(|| Box::pin(ready(Ok(Vec::new()))))
            })
            .await;
        let mut batch = batch.into_inner().unwrap_or_else(PoisonError::into_inner);
        match changed {
            Ok(changed) => {
                if changed.len() * 2 < batch.rows() {
                    self.skips.store(SKIPS, Ordering::Relaxed);
                }
                batch.complete(&changed)
            }
            Err(error) if error.is_commit_unknown() => {
                for call in batch.calls().drain(..) {
                    call.complete(Err(error.duplicate()));
                }
                Vec::new()
            }
            // Nothing was stored. The transaction will meet the same failure and report it.
            Err(_) => {
                self.skips.store(SKIPS, Ordering::Relaxed);
                batch.calls().drain(..).map(Call::given_back).collect()
            }
        }
    }
}

/// Returns how long the statement is to wait for a lock; `None` if too little time is left to one of the
/// calls.
fn lock_wait<DB: Backend, B: StatementBatch<DB>>(batch: &mut B) -> Option<Duration> {
    let first = batch.calls().iter().map(|call| call.deadline).min()?;
    batch.lock_wait(first.saturating_duration_since(Instant::now()))
}

/// Locks the batch, even if the lock is poisoned: a panic in a key's `Ord` leaves nothing behind that is used
/// again.
fn lock<B>(batch: &Mutex<B>) -> MutexGuard<'_, B> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}
