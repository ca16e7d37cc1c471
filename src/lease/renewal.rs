//! The task that renews a lease.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::holding::Holding;
use crate::backend::Backend;
use crate::events::LeaseEvent;

/// The part of the lease's time after which it is renewed.
const RENEWED_AFTER: u32 = 3;

/// The part of the lease's time after which a renewal that failed is tried again.
const REPEATED_AFTER: u32 = 20;

/// Renews a lease until it has another holder, or could not be renewed in time.
pub(super) async fn renew_until_lost<DB: Backend>(holding: Arc<Holding<DB>>, acquired: Instant) {
    let ttl = holding.lease.ttl;
    let mut next = acquired + ttl / RENEWED_AFTER;
    loop {
        sleep_until(next).await;
        let requested = Instant::now();
        next = match timeout_at(holding.clock.certain_until(), holding.renew()).await {
            Ok(Ok(true)) => {
                holding.clock.extended(requested);
                requested + ttl / RENEWED_AFTER
            }
            Ok(Err(error)) => {
                holding.notify(LeaseEvent::RenewalFailed { token: holding.token, error: &error });
                Instant::now() + ttl / REPEATED_AFTER
            }
            Ok(Ok(false)) | Err(_) => {
                if !holding.end() {
                    holding.notify(LeaseEvent::Lost { token: holding.token });
                }
                return;
            }
        };
    }
}
