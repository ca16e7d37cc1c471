//! Notifications of new jobs, on PostgreSQL.

use std::sync::Arc;

use sqlx::Postgres;

use super::Queue;
use crate::error::Error;
use crate::wake::PgWake;

const CHANNEL: &str = "atomically_job";

impl Queue<Postgres> {
    /// Sends a notification with each transaction that enqueues a job, for workers that use [`PgWake`].
    ///
    /// # Why is this not the default?
    ///
    /// A commit with a notification takes a lock on the whole database cluster, which keeps notifications in
    /// the order of the commits. Many small transactions queue up for that lock. Polling has no such cost.
    ///
    /// On an [engine](crate::Engine) without `NOTIFY`, such as CockroachDB, enqueuing then fails as
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    #[must_use]
    pub fn notifying(mut self) -> Self {
        self.after_enqueue = Some(Arc::from(format!("SELECT pg_notify('{CHANNEL}', '{}')::text", self.name)));
        self
    }
}

impl PgWake {
    /// Acquires a connection and starts to listen for jobs of a queue that is
    /// [notifying](Queue::notifying).
    ///
    /// # Errors
    ///
    /// Returns the database's error; [`Aborted`](crate::ErrorKind::Aborted) inside a unit of work on the same
    /// pool.
    pub async fn listen(queue: &Queue<Postgres>) -> Result<Self, Error> {
        Self::listen_on(CHANNEL, queue.name.clone(), queue.db.pool()).await
    }
}
