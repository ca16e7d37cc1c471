//! Ends a pause between two polls.

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::PgWake;

use futures_core::future::BoxFuture;
use tokio::sync::Notify;

/// Wakes a worker of a queue, or a caller that waits for a lease, before its next poll.
///
/// A wake-up is only a hint: if one is lost, the next poll finds what there is, and a spurious one costs a
/// poll that finds nothing.
///
/// [`Notify`] implements this trait, for example for jobs that are enqueued in the same process:
///
/// ```
/// # #[cfg(feature = "queue")]
/// # mod example {
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
/// # }
/// ```
pub trait Wake: Send + Sync + 'static {
    /// Waits until there may be something new.
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
