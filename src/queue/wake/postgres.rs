//! PostgreSQL's LISTEN and NOTIFY.

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

/// How long to wait before asking a server again that is not there.
const PAUSE: Duration = Duration::from_secs(1);

impl Queue<Postgres> {
    /// Sends a notification with each transaction that enqueues something, for those who listen with
    /// [`PgWake`].
    ///
    /// # Why not always?
    ///
    /// A commit that notifies takes a lock of the whole database cluster, so that notifications come in the
    /// order of the commits; under many small transactions they queue up there. Polling costs nothing of the
    /// kind.
    #[must_use]
    pub fn notifying(mut self) -> Self {
        self.after_enqueue = Some(Arc::from(format!("SELECT pg_notify('{CHANNEL}', '{}')::text", self.name)));
        self
    }
}

/// Wakes a worker by PostgreSQL's LISTEN, where the queue is [notifying](Queue::notifying).
///
/// It keeps a connection of the pool for itself. Behind a pooler in transaction mode it hears nothing, as
/// `LISTEN` belongs to a session.
pub struct PgWake {
    queue: Arc<str>,
    pool: PgPool,
    /// `None` while there is no connection to listen on.
    listener: Mutex<Option<PgListener>>,
}

impl PgWake {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The database's; [`Aborted`](crate::ErrorKind::Aborted) inside of a unit of work on the same pool.
    pub async fn listen(queue: &Queue<Postgres>) -> Result<Self, Error> {
        let pool = queue.db.pool().clone();
        if holds_connection_of(&pool) {
            return Err(Error::failed(nested(), None));
        }
        let listener = Mutex::new(Some(listener(&pool).await?));
        Ok(Self { queue: queue.name.clone(), pool, listener })
    }
}

async fn listener(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

impl Wake for PgWake {
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut listening = self.listener.lock().await;
            loop {
                let Some(heard) = listening.as_mut() else {
                    match listener(&self.pool).await {
                        // What was sent while nothing listened was missed.
                        Ok(connected) => {
                            *listening = Some(connected);
                            return;
                        }
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                    continue;
                };
                match heard.try_recv().await {
                    Ok(Some(heard)) if heard.payload() != &*self.queue => {}
                    // Nothing is what comes of a connection that broke and was replaced: something may have
                    // been missed.
                    Ok(_) => return,
                    // The listener would replace its connection by and by, and not say when.
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
