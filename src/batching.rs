//! Calls that share commits: while one batch runs, the next one collects calls.
//!
//! There is no timer: a call that arrives alone runs alone. The batches run in a background task, because
//! dropping a caller must not cancel the calls of others. The task runs only while there are calls, and ends
//! when the last handle is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

mod batcher;
mod numbers;
mod pending;
mod single_statement;

use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Spent};
use crate::failure::{Failure, FailureKind};
use crate::transactor::Options;
use crate::tx::{holds_connection_of, nested, unreachable_since};

use batcher::{Batcher, Shared};
#[cfg(feature = "holds")]
pub(crate) use numbers::sums;
pub(crate) use numbers::{Found, NumberColumn, NumbersRead, aborted};
pub(crate) use pending::Call;
pub(crate) use single_statement::{ChangedRows, SingleStatements, StatementBatch};

/// Runs the calls of a batch, which are requests `Q` for keys `K` with outcomes `O`. Two batches that run at
/// the same time have no key in common.
///
/// The types are parameters and not associated types, so that a handle can be named without bounds on them.
pub(crate) trait BatchRunner<K, Q, O>: Send + Sync + 'static {
    fn limits(&self) -> BatchLimits;

    /// Runs and completes all of these calls, in the order of their arrival where that makes a difference.
    fn run(&self, calls: Vec<Call<K, Q, O>>) -> impl Future<Output = ()> + Send;
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// The maximum number of waiting calls.
    pub(crate) capacity: usize,
    /// The maximum number of batches that run at the same time.
    pub(crate) max_batches: usize,
}

impl BatchLimits {
    pub(crate) const DEFAULT: Self = Self { capacity: 10_000, max_batches: 2 };
}

/// Collects calls for a runner. Clones share the batches.
pub(crate) struct Batching<R, K, Q, O> {
    shared: Arc<Shared<R, K, Q, O>>,
    /// Dropped with the last handle, which cancels the batches that are running.
    alive: Arc<watch::Sender<()>>,
}

impl<R, K, Q, O> Batching<R, K, Q, O> {
    pub(crate) fn runner(&self) -> &R {
        &self.shared.runner
    }
}

impl<R, K, Q, O> Batching<R, K, Q, O>
where
    R: BatchRunner<K, Q, O>,
    K: Ord + Clone + Send + Sync + 'static,
    Q: Send + Sync + 'static,
    O: Send + 'static,
{
    pub(crate) fn new(runner: R) -> Self {
        let (alive, gone) = watch::channel(());
        Self { shared: Arc::new(Shared::new(runner, gone)), alive: Arc::new(alive) }
    }

    /// Runs a call in a batch on this pool, and returns when the batch has ended, or at `deadline`.
    ///
    /// If the future is dropped before a batch has taken the call, the call is withdrawn.
    pub(crate) async fn call<DB: Backend>(
        &self,
        pool: &Pool<DB>,
        (key, request): (K, Q),
        deadline: Instant,
    ) -> Result<O, Error> {
        let shared = &self.shared;
        if holds_connection_of(pool) {
            return Err(Error::failed(nested(), None));
        }
        let (runtime, started) = (Handle::current(), Instant::now());
        let (sender, result) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let call = Call::new(key, request, deadline, taken.clone(), sender);
        let (ticket, starts) = shared.queue().push(call, shared.runner.limits())?;
        let position = scopeguard::guard(ticket, |ticket| drop(shared.queue().withdraw(ticket)));
        if starts {
            Batcher::start(shared, &runtime);
        }
        let result = timeout_at(deadline, result).await;
        let spent = Spent { attempts: 0, elapsed: started.elapsed() };
        match result {
            Ok(Ok(outcome)) => {
                scopeguard::ScopeGuard::into_inner(position);
                outcome
            }
            // The flag decides the race: a batch does not take a call whose caller has given up, and a caller
            // does not give up a call that was taken.
            Ok(Err(_)) if taken.swap(true, Ordering::AcqRel) => Err(unknown("the batch was never finished")),
            Ok(Err(_)) => {
                let why = "the runtime that carried the batch was shut down, or the batch panicked";
                Err(Error::failed(Failure::new(FailureKind::Unavailable, why), Some(spent)))
            }
            Err(_) if taken.swap(true, Ordering::AcqRel) => {
                Err(unknown("the deadline passed before the batch was committed"))
            }
            Err(_) => {
                let unreachable = unreachable_since(pool, started);
                Err(Error::deadline_exceeded(unreachable, spent).while_waiting("for its batch"))
            }
        }
    }
}

fn unknown(why: &str) -> Error {
    Error::failed(Failure::new(FailureKind::CommitUnknown, why), None)
}

/// Runs calls in a transaction, and in halves if the database refuses some of them.
///
/// `transact` completes the calls, and returns those to run again. If its transaction fails, it returns the
/// calls with the error.
pub(crate) async fn run_in_parts<K, Q, O, F>(
    calls: Vec<Call<K, Q, O>>,
    transact: impl Fn(Vec<Call<K, Q, O>>, Options) -> F,
) where
    F: Future<Output = Result<Vec<Call<K, Q, O>>, (Vec<Call<K, Q, O>>, Error)>>,
{
    let mut parts = vec![calls];
    while let Some(calls) = parts.pop() {
        let Some(deadline) = calls.iter().map(|call| call.deadline).max() else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        match transact(calls, Options::new().deadline(left)).await {
            Ok(again) => parts.push(again),
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

/// Returns whether some calls of a batch that failed with an error of this kind may succeed without the
/// others.
pub(crate) fn refuses_a_part(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Constraint
            | ErrorKind::Database
            | ErrorKind::Aborted
            | ErrorKind::InvalidInput
            | ErrorKind::Decode
    )
}

// Not derived, because that would require `R: Clone`.
impl<R, K, Q, O> Clone for Batching<R, K, Q, O> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), alive: self.alive.clone() }
    }
}
