//! Hearing of new jobs before the next poll.

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::PgWake;

use futures_core::future::BoxFuture;
use tokio::sync::Notify;

/// Tells a [`Worker`](super::Worker) that there may be something to do, before it looks by itself.
///
/// A hint and nothing more: a wake-up that is lost makes a job late by one
/// [poll](super::Worker::poll_every), and one too many makes a claim that finds nothing.
///
/// A [`Notify`] is one, for jobs that are enqueued in the same process:
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
    /// Is done when there may be a new job. May be dropped before it is; what it would have told must not be
    /// lost by that.
    fn woken(&self) -> BoxFuture<'_, ()>;
}

impl Wake for Notify {
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.notified())
    }
}
