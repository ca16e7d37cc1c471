//! Wakes workers before their next poll.

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::PgWake;

use futures_core::future::BoxFuture;
use tokio::sync::Notify;

/// Wakes a [`Worker`](super::Worker) when there may be new jobs, before its next poll.
///
/// A wake-up is only a hint: if one is lost, a job waits for the next [poll](super::Worker::poll_every),
/// and a spurious one costs a claim that finds no jobs.
///
/// [`Notify`] implements this trait, for jobs that are enqueued in the same process:
///
/// ```
/// # use atomically::queue::{NewJob, Queue, Worker};
/// # use atomically::{Error, Pessimistic, TransactorExt as _};
/// # use std::sync::Arc;
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
/// let queue = Queue::new("mail", &pool)?;
/// let wake = Arc::new(tokio::sync::Notify::new());
/// let worker = Worker::new(&queue).wake(wake.clone());
/// Pessimistic::default()
///     .on(&pool)
///     .run(async |tx| {
///         let wake = wake.clone();
///         tx.on_commit(async move { wake.notify_one() });
///         queue.enqueue(tx, NewJob::new("hello")?).await
///     })
///     .await?;
/// # Ok(()) }
/// ```
pub trait Wake: Send + Sync + 'static {
    /// Waits until there may be a new job.
    ///
    /// # Cancellation
    ///
    /// Must be cancel safe: if the future is dropped before it has reported a wake-up, the next call reports
    /// it.
    fn woken(&self) -> BoxFuture<'_, ()>;
}

impl Wake for Notify {
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.notified())
    }
}
