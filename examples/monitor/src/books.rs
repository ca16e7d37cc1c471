//! Compares the database with the responses that buyers got.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atomically::Error;
use example_database::within;
use sqlx::Pool;
use tokio::time::sleep;

use crate::shop::Shop;

/// Counts the responses to buyers, and compares them with the database.
#[derive(Debug, Default)]
pub(crate) struct Books {
    begun: AtomicI64,
    sold: AtomicI64,
    refused: AtomicI64,
    state: Mutex<State>,
}

/// The result of the last comparison.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Seats that are taken in the database.
    pub(crate) taken: i64,
    /// Seats that were sold to a buyer, and are not taken in the database.
    pub(crate) lost: i64,
    /// Seats that are taken in the database without a purchase.
    pub(crate) surplus: i64,
    /// The last error.
    pub(crate) trouble: Option<String>,
}

impl Books {
    /// Counts a purchase that begins.
    pub(crate) fn begun(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts the response to the buyer.
    pub(crate) fn record(&self, result: &Result<(), Error>) {
        match result {
            Ok(()) => _ = self.sold.fetch_add(1, Ordering::SeqCst),
            Err(error) => {
                // After an unknown commit the seat may be taken, so it counts as a purchase without a
                // response.
                if !error.is_commit_unknown() {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
                self.change(|state| state.trouble = Some(error.to_string()));
            }
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Compares once a second, on a pool of its own, so that buyers do not wait for it.
    pub(crate) async fn keep<DB: Shop>(&self, pool: &Pool<DB>) {
        loop {
            // Purchases that have returned by now are in the database. Purchases that begin while it is read
            // may be in it.
            let [sold, refused] = [&self.sold, &self.refused].map(|number| number.load(Ordering::SeqCst));
            let taken = within(DB::taken(pool)).await;
            let begun = self.begun.load(Ordering::SeqCst);
            self.change(|state| match taken {
                Ok(taken) => {
                    state.taken = taken;
                    state.lost = (sold - taken).max(0);
                    state.surplus = (taken - (begun - refused)).max(0);
                }
                Err(error) => state.trouble = Some(format!("{error:#}")),
            });
            sleep(Duration::from_secs(1)).await;
        }
    }
}
