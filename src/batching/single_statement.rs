//! Batches that are applied in one round trip.

use std::future::ready;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::SqlStr;
use tokio::time::Instant;

use super::Call;
use crate::backend::Backend;
use crate::strategies::Pessimistic;
use crate::strategy::{Limits, OwnLockLimit};
use crate::transactor::{Options, PoolTransactor};

/// The maximum wait for a row lock: long enough for the commit of another batch, on another connection or
/// in another process.
const MAX_LOCK_WAIT: Duration = Duration::from_millis(5);

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
        // The lock timeout is checked before a connection is acquired, and again when there is one.
        if is_skipped
            || !transactor.engine().await.is_ok_and(|engine| engine.adds_in_one_statement())
            || lock_timeout(batch.calls()).is_none()
        {
            return std::mem::take(batch.calls());
        }
        let batch = Mutex::new(batch);
        let changed = transactor
            .run_on_connection(sql, |connection, limit: Duration| {
                let mut batch = lock(&batch);
                let Some(lock_timeout) = lock_timeout(batch.calls()) else {
                    return Box::pin(ready(Ok(Vec::new())));
                };
                batch.calls().retain_mut(Call::take);
                batch.sum();
                // Options with limits of their own never reach this point: a transaction handles them.
                let (left, lock) = (Some(limit), Some(lock_timeout));
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

/// Returns the time limit for each row lock: a hundredth of the shortest time left, so that the server
/// responds before any deadline passes. `None` if that is too short.
fn lock_timeout<K, Q, O>(calls: &[Call<K, Q, O>]) -> Option<Duration> {
    let first = calls.iter().map(|call| call.deadline).min()?;
    let limit = MAX_LOCK_WAIT.min(first.saturating_duration_since(Instant::now()) / 100);
    (limit >= Duration::from_millis(1)).then_some(limit)
}

/// Locks the batch, even if the lock is poisoned: a panic in a key's `Ord` leaves nothing behind that is used
/// again.
fn lock<B>(batch: &Mutex<B>) -> MutexGuard<'_, B> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_timeout_is_far_shorter_than_any_deadline() {
        let timeout = |millis: &[u64]| {
            let call = |millis: &u64| {
                let deadline = Instant::now() + Duration::from_millis(*millis);
                let sender = tokio::sync::oneshot::channel::<Result<(), _>>().0;
                Call::new(1, 1, deadline, Default::default(), sender)
            };
            lock_timeout(&millis.iter().map(call).collect::<Vec<_>>())
        };
        assert_eq!(timeout(&[10_000]), Some(MAX_LOCK_WAIT));
        assert!(timeout(&[10_000, 400, 10_000]).is_some_and(|wait| wait <= Duration::from_millis(4)));
        assert_eq!(timeout(&[10_000, 99]), None);
        assert_eq!(timeout(&[]), None);
    }
}
