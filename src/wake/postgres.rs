//! Wakes by PostgreSQL's LISTEN and NOTIFY.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Mutex;

use super::Wake;
use crate::backend::Capability;
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::PoolTransactor;
use crate::tx::{holds_connection_of, nested};

/// The delay between attempts to connect.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Wakes by PostgreSQL's LISTEN, if the other side sends notifications.
///
/// It occupies one connection of the pool. Behind a pooler in transaction mode it receives no notifications,
/// because `LISTEN` belongs to a session.
pub struct PgWake {
    channel: &'static str,
    payload: Arc<str>,
    pool: PgPool,
    /// `None` while there is no connection.
    listener: Mutex<Option<PgListener>>,
}

impl PgWake {
    /// Acquires a connection and starts to listen for notifications with this payload.
    pub(crate) async fn listen_on(
        channel: &'static str,
        payload: Arc<str>,
        pool: &PgPool,
    ) -> Result<Self, Error> {
        if holds_connection_of(pool) {
            return Err(Error::failed(nested(), None));
        }
        let engine = PoolTransactor::new(Pessimistic::default(), pool).engine().await?;
        engine.require(Capability::ListenNotify).map_err(|failure| Error::failed(failure, None))?;
        let listener = Mutex::new(Some(connect(pool, channel).await?));
        Ok(Self { channel, payload, pool: pool.clone(), listener })
    }
}

async fn connect(pool: &PgPool, channel: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    Ok(listener)
}

impl Wake for PgWake {
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut listening = self.listener.lock().await;
            loop {
                let Some(listener) = listening.as_mut() else {
                    match connect(&self.pool, self.channel).await {
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
                    Ok(Some(notification)) if notification.payload() != &*self.payload => {}
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
        f.debug_struct("PgWake")
            .field("channel", &self.channel)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}
