//! What a holder and the task that renews its lease share.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Lease;
use super::sql::LeaseSql;
use crate::backend::Backend;
use crate::error::Error;
use crate::events::{Event, LeaseEvent};
use crate::lease_clock::LeaseClock;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// A lease that is held, until it is lost or released.
pub(super) struct Holding<DB: Backend> {
    pub(super) lease: Lease<DB>,
    pub(super) token: i64,
    pub(super) clock: LeaseClock,
    /// Becomes true when the lease has a new holder, or was released.
    ended: watch::Sender<bool>,
}

impl<DB: Backend> Holding<DB> {
    /// Begins to hold a lease. `requested` is when it was requested from the database.
    pub(super) fn new(lease: &Lease<DB>, token: i64, requested: Instant) -> Self {
        let clock = LeaseClock::new(lease.ttl, requested);
        Self { lease: lease.clone(), token, clock, ended: watch::Sender::new(false) }
    }

    /// Renews the lease once. Returns whether it still exists.
    pub(super) async fn renew(&self) -> Result<bool, Error> {
        let terms = self.lease.terms();
        let renewing =
            async |tx: &mut Tx<DB>| Ok::<_, Error>(LeaseSql::of::<DB>().renew(tx, terms, self.token).await?);
        self.lease.db.with(self.lease.limits()).run(renewing).await
    }

    pub(super) async fn release(&self) -> Result<(), Error> {
        // A renewal that is still on its way finds that the lease has expired.
        if self.end() {
            return Ok(());
        }
        self.notify(LeaseEvent::Released { token: self.token });
        let (terms, after) = (self.lease.terms(), self.lease.after_release.as_deref());
        let releasing = async |tx: &mut Tx<DB>| {
            let sql = LeaseSql::of::<DB>();
            Ok::<_, Error>(sql.release(tx, terms, self.token, after).await?)
        };
        self.lease.db.with(self.lease.limits()).run(releasing).await
    }

    pub(super) fn notify(&self, event: LeaseEvent<'_>) {
        self.lease.db.notify(&Event::Lease { lease: self.lease.name(), event });
    }

    /// Records that the lease is no longer held. Returns whether it was recorded before.
    pub(super) fn end(&self) -> bool {
        self.ended.send_replace(true)
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.has_ended() || !self.clock.is_certain()
    }

    pub(super) async fn lost(&self) {
        let mut ended = self.ended.subscribe();
        while !self.is_lost() {
            // Whether it has ended, or its time is over, is looked at again: it may have been renewed.
            let _ = timeout_at(self.clock.certain_until(), ended.wait_for(|ended| *ended)).await;
        }
    }
}
