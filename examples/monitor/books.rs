//! The books: whether the database has exactly what buyers were told.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atomically::Error;
use sqlx::Pool;
use tokio::time::sleep;

use crate::database::within;
use crate::shop::Shop;

/// What buyers were told, and what was found in the database.
#[derive(Debug, Default)]
pub(crate) struct Books {
    begun: AtomicI64,
    sold: AtomicI64,
    refused: AtomicI64,
    state: Mutex<State>,
}

/// As of the last time that somebody looked.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// How many seats are taken.
    pub(crate) taken: i64,
    /// Seats that a buyer was told are theirs, and are not taken.
    pub(crate) lost: i64,
    /// Seats that are taken by nobody who asked for one.
    pub(crate) surplus: i64,
    /// Why the last buyer who got no seat got none.
    pub(crate) trouble: Option<String>,
}

impl Books {
    /// Somebody asks for a seat.
    pub(crate) fn begun(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// And is answered.
    pub(crate) fn told(&self, answer: &Result<(), Error>) {
        match answer {
            Ok(()) => _ = self.sold.fetch_add(1, Ordering::SeqCst),
            Err(error) => {
                // Where nobody knows whether the seat is taken, it may be: as if the buyer had never been answered.
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

    /// Compares again and again, on a pool of its own: buyers shall not wait for it.
    pub(crate) async fn keep<DB: Shop>(&self, pool: &Pool<DB>) {
        loop {
            // Whoever was told so by now is in the database. Whoever asks while it is being read may be.
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
