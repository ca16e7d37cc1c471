//! Notifications of released leases, on PostgreSQL.

use std::sync::Arc;

use sqlx::Postgres;

use super::Lease;
use crate::error::Error;
use crate::wake::PgWake;

const CHANNEL: &str = "atomically_lease";

impl Lease<Postgres> {
    /// Sends a notification when the lease is released, for callers that wait with [`PgWake`].
    ///
    /// A lease that expires sends none: waiting callers find it by their [polls](Lease::poll_every).
    #[must_use]
    pub fn notifying(mut self) -> Self {
        self.after_release = Some(Arc::from(format!("SELECT pg_notify('{CHANNEL}', '{}')::text", self.name)));
        self
    }
}

impl PgWake {
    /// Acquires a connection and starts to listen for releases of a lease that is
    /// [notifying](Lease::notifying).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): the lease has an invalid name.
    /// [`Aborted`](crate::ErrorKind::Aborted): this is inside a unit of work on the same pool. Otherwise,
    /// returns the database's error.
    pub async fn listen_for_release(lease: &Lease<Postgres>) -> Result<Self, Error> {
        lease.check_name()?;
        Self::listen_on(CHANNEL, lease.name.clone(), lease.db.pool()).await
    }
}
