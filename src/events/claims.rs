//! What happens to leases and holds.

use crate::error::Error;

/// An event of a `Lease` in this process.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum LeaseEvent<'a> {
    /// This process has acquired the lease.
    Acquired {
        /// The fencing token.
        token: i64,
    },
    /// A renewal failed. It is repeated while the lease lasts.
    RenewalFailed {
        /// The fencing token.
        token: i64,
        /// The error.
        error: &'a Error,
    },
    /// The lease has another holder, or could not be renewed in time.
    Lost {
        /// The fencing token.
        token: i64,
    },
    /// The holder releases the lease.
    Released {
        /// The fencing token.
        token: i64,
    },
}

/// An event of a `Holds` in this process.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum HoldEvent<'a> {
    /// Amounts were taken.
    Held {
        /// The number of holds.
        holds: usize,
    },
    /// Calls were refused, because there was not enough.
    Refused {
        /// The number of calls.
        calls: usize,
    },
    /// A transaction that confirms a hold has committed.
    Confirmed {
        /// The id of the hold.
        id: i64,
    },
    /// A confirmation failed, because the hold has expired or was released: what was paid has to be refunded.
    TooLate {
        /// The id of the hold.
        id: i64,
    },
    /// The holder has given an amount back.
    Released {
        /// The id of the hold.
        id: i64,
    },
    /// Holds had expired, and their amounts were given back.
    Expired {
        /// The number of holds.
        holds: usize,
    },
    /// An error interrupted the task that gives expired holds back. It tries again.
    SweepFailed {
        /// The error.
        error: &'a Error,
    },
}
