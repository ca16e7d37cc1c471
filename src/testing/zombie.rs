//! Checks job handlers for effects after the loss of their lease.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Error;
use crate::queue::{Claim, Queue};
use crate::transactor::Options;

mod hand_over;
mod pausing;

use hand_over::{FencingCheck, check_failed};
use pausing::ClaimSteps;

/// Ends the lease of a claim at once, so that another worker can claim its job.
///
/// The holder of the claim is not notified, like a worker that was suspended or disconnected for too long.
///
/// # Errors
///
/// Errors of the database, and [`StaleClaim`](crate::ErrorKind::StaleClaim) if another worker has claimed the
/// job already.
pub async fn lapse_lease<DB: Backend>(claim: &Claim<DB>) -> Result<(), Error> {
    claim.lapse().await
}

/// Why a handler is not fenced, or why that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotFenced {
    /// The number of effects of a job is wrong.
    #[error("{moment}: expected {expected} effects of the job, found {found}")]
    Effects {
        /// When the job was taken over.
        moment: String,
        /// The expected number of effects.
        expected: i64,
        /// The actual number of effects.
        found: i64,
    },
    /// The handler of a worker that had lost its job returned `Ok`.
    #[error("{moment}: the handler of the worker that had lost the job returned Ok instead of an error")]
    LossNotReported {
        /// When the job was taken over.
        moment: String,
    },
    /// The worker that took the job over failed.
    #[error("the worker that took the job over failed: {0}")]
    SuccessorFailed(String),
    /// The check could not be made.
    #[error("could not check the handler: {0}")]
    CheckFailed(String),
}

/// Asserts that the handler of a queue has exactly one effect for each job, even if it loses its lease.
///
/// The handler first runs undisturbed and must complete its job. Then it is paused at one point of its work
/// after another: before it begins, before and after each statement that its claim sends, and wherever its
/// future is pending. At each point its lease expires and a second worker claims the job. The first worker
/// goes on, once while the second one holds the job, and once after the second one has completed it. From
/// then on the first handler must have no effect and must return an error, even if it checked its claim
/// before it was paused.
///
/// `enqueue` adds one job to the queue, which must have no other jobs. `handler` does the job and completes
/// it. `count` returns the total number of effects of all jobs. All three are called a few dozen times, twice
/// for each point.
///
/// # Limits
///
/// The handler is paused where its future is pending. Everything that it does between two such points happens
/// as one step. Spawned tasks and other threads are not paused.
///
/// While the handler's own transaction has locked the job, no other worker can claim it, so the job is not
/// taken over at those points. The second worker needs a connection while the first one is paused: give the
/// queue's pool at least two, and use a file with SQLite.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), atomically::Error> {
/// use atomically::queue::{Claim, NewJob, Queue};
/// use atomically::testing::assert_fenced;
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let directory = tempfile::tempdir().map_err(sqlx::Error::Io)?;
/// # let file = format!("sqlite:{}?mode=rwc", directory.path().join("shop.db").display());
/// # let pool = sqlx::SqlitePool::connect(&file).await?;
/// # sqlx::query("CREATE TABLE payment (amount INTEGER)").execute(&pool).await?;
/// let db = Pessimistic::default().on(&pool);
/// let payments = Queue::new("payments", &pool)?;
/// payments.create_tables().await?;
///
/// let db = &db;
/// let handler = |claim: Claim<sqlx::Sqlite>| async move {
///     db.run(async |tx| {
///         let insert = sqlx::query("INSERT INTO payment VALUES ($1)");
///         insert.bind(claim.payload::<i64>()?).execute(&mut *tx).await?;
///         claim.complete_in(tx).await // with `claim.complete()` after the `run`, the assertion fails
///     })
///     .await
/// };
/// assert_fenced(
///     &payments,
///     || db.run(async |tx| payments.enqueue(tx, NewJob::new(&5)?).await),
///     handler,
///     || async { sqlx::query_scalar("SELECT COUNT(*) FROM payment").fetch_one(&pool).await },
/// )
/// .await;
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))] fn main() {}
/// ```
///
/// # Panics
///
/// With the [`NotFenced`] that [`check_fenced`] returns.
pub async fn assert_fenced<DB, Enqueue, Enqueued, T, Handler, Handled, E, Count, Counted, N>(
    queue: &Queue<DB>,
    enqueue: Enqueue,
    handler: Handler,
    count: Count,
) where
    DB: Backend,
    Enqueue: Fn() -> Enqueued,
    Enqueued: Future<Output = Result<T, Error>>,
    Handler: Fn(Claim<DB>) -> Handled,
    Handled: Future<Output = Result<(), E>>,
    E: Display,
    Count: Fn() -> Counted,
    Counted: Future<Output = Result<i64, N>>,
    N: Display,
{
    if let Err(not_fenced) = check_fenced(queue, enqueue, handler, count).await {
        #[expect(clippy::panic, reason = "it asserts")]
        {
            panic!("not fenced: {not_fenced}");
        }
    }
}

/// Checks what [`assert_fenced`] asserts, and returns the result.
///
/// # Errors
///
/// [`NotFenced`] if a worker that had lost its job had an effect or returned `Ok`, or if the check could not
/// be made.
pub async fn check_fenced<DB, Enqueue, Enqueued, T, Handler, Handled, E, Count, Counted, N>(
    queue: &Queue<DB>,
    enqueue: Enqueue,
    handler: Handler,
    count: Count,
) -> Result<(), NotFenced>
where
    DB: Backend,
    Enqueue: Fn() -> Enqueued,
    Enqueued: Future<Output = Result<T, Error>>,
    Handler: Fn(Claim<DB>) -> Handled,
    Handled: Future<Output = Result<(), E>>,
    E: Display,
    Count: Fn() -> Counted,
    Counted: Future<Output = Result<i64, N>>,
    N: Display,
{
    let steps = Arc::new(ClaimSteps::default());
    let check = FencingCheck {
        queue,
        stepped: queue.clone().options(Options::new().intercepted_by(steps.clone())),
        steps,
        enqueue: || async { enqueue().await.map(drop).map_err(check_failed) },
        handler: |claim| {
            let handled = handler(claim);
            async { handled.await.map_err(|error| error.to_string()) }
        },
        count: || async { count().await.map_err(check_failed) },
    };
    check.all_points().await
}
