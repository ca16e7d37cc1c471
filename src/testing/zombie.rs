//! Workers that were taken for dead, and are not.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Error;
use crate::queue::{Claim, Queue};
use crate::transactor::Options;

mod hand_over;
mod pausing;

use hand_over::{Check, unchecked};
use pausing::ClaimSteps;

/// Lets the lease of a claim lapse at once: the next claim takes its job over.
///
/// Whoever holds the claim does not notice, as a worker that slept, or was cut off, would not.
///
/// # Errors
///
/// The database's; and [`StaleClaim`](crate::ErrorKind::StaleClaim) where the job was taken over before.
pub async fn lapse_lease<DB: Backend>(claim: &Claim<DB>) -> Result<(), Error> {
    claim.lapse().await
}

/// Why a handler is not fenced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotFenced {
    /// The effect of a job was not there as often as it was to be.
    #[error("{moment}: the effect of one job was expected {expected} times, and is there {found} times")]
    Effects {
        /// What had happened.
        moment: String,
        /// How often it was to be there.
        expected: i64,
        /// How often it is.
        found: i64,
    },
    /// A worker that had lost its job was told that it had done it.
    #[error("{moment}: the worker that had lost the job was told that it had done it")]
    NotTold {
        /// What had happened.
        moment: String,
    },
    /// The one that had taken the job over could not do it.
    #[error("the worker that had taken the job over failed: {0}")]
    HeirFailed(String),
    /// It did not get that far.
    #[error("the check could not be made: {0}")]
    Unchecked(String),
}

/// Checks that a queue's handler has one effect for each job, whatever becomes of its lease.
///
/// The handler is run once without a disturbance, and must do its job then. After that it is held at one
/// point of its work after another: before it begins, before and after each statement that its claim sends,
/// and wherever it waits for anything. There its lease lapses and a second worker claims the job. The first
/// one goes on, once while the second one only has the job, and once after the second one is done. From then
/// on it must not leave anything, and must be told: a claim that was checked a moment ago is no permission to
/// do something now.
///
/// `enqueue` puts one job into the queue, which has no other; `handler` does it and completes it; `count`
/// returns how often the effects of all jobs are there. All of that happens a few dozen times: twice for each
/// point.
///
/// # What it cannot check
///
/// The handler is held where its future waits. What it does between two such points, without waiting, happens
/// at one moment here. What it does in tasks that it spawns, and on other threads, is not held back.
///
/// While the handler's own transaction has locked the job, nobody can take it over, and it is not handed over
/// there. The second worker needs a connection while the first one is held: give the queue's pool at least
/// two, and SQLite a file.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
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
///         sqlx::query("INSERT INTO payment VALUES ($1)").bind(claim.payload::<i64>()?).execute(&mut *tx).await?;
///         claim.complete_in(tx).await // with `claim.complete()` behind the `run`, the assertion fails
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
/// With the [`NotFenced`] that it finds. [`check_fenced`] returns it instead.
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

/// What [`assert_fenced`] asserts, as a value.
///
/// # Errors
///
/// A worker that had lost its job left an effect, or was not told; or the check could not be made.
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
    let check = Check {
        queue,
        watched: queue.with_options(Options::new().intercepted_by(steps.clone())),
        steps,
        enqueue: || async { enqueue().await.map(drop).map_err(unchecked) },
        handler: |claim| {
            let handled = handler(claim);
            async { handled.await.map_err(|error| error.to_string()) }
        },
        count: || async { count().await.map_err(unchecked) },
    };
    check.everywhere().await
}
