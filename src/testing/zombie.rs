//! Workers that were taken for dead, and are not.

use std::fmt::Display;
use std::future::Future;

use crate::error::Error;
use crate::queue::{Claim, Queue, QueueBackend};

/// Lets the lease of a claim lapse at once: the next claim takes its job over.
///
/// Whoever holds the claim does not notice, as a worker that slept, or was cut off, would not.
///
/// # Errors
///
/// The database's; and [`StaleClaim`](crate::ErrorKind::StaleClaim) where the job was taken over before.
pub async fn lapse_lease<DB: QueueBackend>(claim: &Claim<DB>) -> Result<(), Error> {
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
        moment: &'static str,
        /// How often it was to be there.
        expected: i64,
        /// How often it is.
        found: i64,
    },
    /// A worker that had lost its job was told that it had done it.
    #[error("{moment}: the worker that had lost the job was told that it had done it")]
    NotTold {
        /// What had happened.
        moment: &'static str,
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
/// A worker claims a job, its lease lapses, and a second one claims the job. Then the first one comes back and does its work:
/// once while the second has the job, and once when the second is done. It must not leave anything, and must be told.
///
/// `enqueue` puts one job into the queue, which has no other; `handler` does it and completes it; `count` answers how often
/// the effects of all jobs are there.
///
/// ```
/// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
/// use atomically::queue::{Claim, NewJob, Queue};
/// use atomically::testing::assert_fenced;
/// use atomically::{Error, Pessimistic, TransactorExt as _};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
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
/// With the [`NotFenced`] that it finds. [`check_fenced`] answers it instead.
pub async fn assert_fenced<DB, Enqueue, Enqueued, T, Handler, Handled, E, Count, Counted, N>(
    queue: &Queue<DB>,
    enqueue: Enqueue,
    handler: Handler,
    count: Count,
) where
    DB: QueueBackend,
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
/// Where a worker that had lost its job left an effect, or was not told; or why that cannot be said.
pub async fn check_fenced<DB, Enqueue, Enqueued, T, Handler, Handled, E, Count, Counted, N>(
    queue: &Queue<DB>,
    enqueue: Enqueue,
    handler: Handler,
    count: Count,
) -> Result<(), NotFenced>
where
    DB: QueueBackend,
    Enqueue: Fn() -> Enqueued,
    Enqueued: Future<Output = Result<T, Error>>,
    Handler: Fn(Claim<DB>) -> Handled,
    Handled: Future<Output = Result<(), E>>,
    E: Display,
    Count: Fn() -> Counted,
    Counted: Future<Output = Result<i64, N>>,
    N: Display,
{
    let counted = || async { count().await.map_err(unchecked) };
    let take_over = || async {
        enqueue().await.map_err(unchecked)?;
        let zombie = only_one(queue).await?;
        lapse_lease(&zombie).await.map_err(unchecked)?;
        let heir = only_one(queue).await?;
        Ok::<_, NotFenced>((zombie, heir))
    };
    let heir_works =
        |heir| async { handler(heir).await.map_err(|error| NotFenced::HeirFailed(error.to_string())) };

    let before = counted().await?;
    let (zombie, heir) = take_over().await?;
    let moment = "while another one had the job";
    let told = handler(zombie).await.is_err();
    expect(moment, 0, counted().await? - before)?;
    heir_works(heir).await?;
    expect(moment, 1, counted().await? - before)?;
    if !told {
        return Err(NotFenced::NotTold { moment });
    }

    let before = counted().await?;
    let (zombie, heir) = take_over().await?;
    let moment = "after another one had done the job";
    heir_works(heir).await?;
    let told = handler(zombie).await.is_err();
    expect(moment, 1, counted().await? - before)?;
    if told { Ok(()) } else { Err(NotFenced::NotTold { moment }) }
}

fn unchecked(error: impl Display) -> NotFenced {
    NotFenced::Unchecked(error.to_string())
}

fn expect(moment: &'static str, expected: i64, found: i64) -> Result<(), NotFenced> {
    if expected == found { Ok(()) } else { Err(NotFenced::Effects { moment, expected, found }) }
}

async fn only_one<DB: QueueBackend>(queue: &Queue<DB>) -> Result<Claim<DB>, NotFenced> {
    let mut claims = queue.claim(2).await.map_err(unchecked)?;
    match (claims.pop(), claims.len()) {
        (Some(claim), 0) => Ok(claim),
        (claim, others) => {
            let claimed = others + usize::from(claim.is_some());
            Err(unchecked(format!("one job was to be claimed from the queue, {claimed} were")))
        }
    }
}
