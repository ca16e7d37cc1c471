//! Wakes workers by PostgreSQL's LISTEN and NOTIFY.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::PgListener;
use sqlx::{PgPool, Postgres};
use tokio::sync::Mutex;

use super::Wake;
use crate::error::Error;
use crate::queue::Queue;
use crate::tx::{holds_connection_of, nested};

const CHANNEL: &str = "atomically_job";

/// The delay between attempts to connect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

impl Queue<Postgres> {
    /// Sends a notification with each transaction that enqueues a job, for workers that use [`PgWake`].
    ///
    /// # Why is this not the default?
    ///
    /// A commit with a notification takes a lock on the whole database cluster, which keeps notifications in
    /// the order of the commits. Many small transactions queue up for that lock. Polling has no such cost.
    #[must_use]
    pub fn notifying(mut self) -> Self {
        self.after_enqueue = Some(Arc::from(format!("SELECT pg_notify('{CHANNEL}', '{}')::text", self.name)));
        self
    }
}

/// Wakes a worker by PostgreSQL's LISTEN, if the queue is [notifying](Queue::notifying).
///
/// It occupies one connection of the pool. Behind a pooler in transaction mode it receives no notifications,
/// because `LISTEN` belongs to a session.
pub struct PgWake {
    queue: Arc<str>,
    pool: PgPool,
    /// `None` while there is no connection.
    listener: Mutex<Option<PgListener>>,
}

impl PgWake {
    /// Acquires a connection and starts to listen.
    ///
    /// # Errors
    ///
    /// Returns the database's error; [`Aborted`](crate::ErrorKind::Aborted) inside a unit of work on the same
    /// pool.
    pub async fn listen(queue: &Queue<Postgres>) -> Result<Self, Error> {
        let pool = queue.db.pool().clone();
        if holds_connection_of(&pool) {
            return Err(Error::failed(nested(), None));
        }
        let listener = Mutex::new(Some(connect(&pool).await?));
        Ok(Self { queue: queue.name.clone(), pool, listener })
    }
}

async fn connect(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

impl Wake for PgWake {
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut listening = self.listener.lock().await;
            loop {
                let Some(listener) = listening.as_mut() else {
                    match connect(&self.pool).await {
                        // Notifications may have been missed while there was no connection.
                        Ok(connected) => {
                            *listening = Some(connected);
                            return;
                        }
                        Err(_) => tokio::time::sleep(RECONNECT_DELAY).await,
                    }
                    continue;
                };
                match listener.try_recv().await {
                    Ok(Some(notification)) if notification.payload() != &*self.queue => {}
                    // `None` means that the connection was lost and replaced: notifications may have been
                    // missed.
                    Ok(_) => return,
                    // The listener would reconnect later without reporting it.
                    Err(_) => *listening = None,
                }
            }
        })
    }
}

impl fmt::Debug for PgWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgWake").field("queue", &self.queue).finish_non_exhaustive()
    }
}
