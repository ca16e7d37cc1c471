//! A bank that takes payments in two steps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payment {
    Authorized,
    Captured,
    Void,
}

/// Keeps the payments by their ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bank(Arc<Mutex<BTreeMap<i64, Payment>>>);

impl Bank {
    /// Reserves the money, which takes a while.
    pub(crate) async fn authorize(&self, id: i64, time: Duration) {
        sleep(time).await;
        self.set(id, Payment::Authorized);
    }

    /// Takes the money that is reserved.
    pub(crate) fn capture(&self, id: i64) {
        self.set(id, Payment::Captured);
    }

    /// Gives the reserved money free. Nothing was taken, so nothing has to be refunded.
    pub(crate) fn void(&self, id: i64) {
        self.set(id, Payment::Void);
    }

    fn set(&self, id: i64, payment: Payment) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, payment);
    }

    /// Returns the number of payments that were captured, and of those that are only authorized.
    pub(crate) fn totals(&self) -> (i64, i64) {
        let payments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |wanted| payments.values().filter(|payment| **payment == wanted).count() as i64;
        (count(Payment::Captured), count(Payment::Authorized))
    }
}
