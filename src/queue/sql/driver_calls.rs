//! Calls that need the types of one driver.

use futures_core::future::BoxFuture;

use crate::backend::Backend;
use crate::error::Error;
use crate::queue::insertion::NewRows;
use crate::queue::row::{Inserted, JobRow, JobsWanted};
use crate::strategies::Pessimistic;
use crate::transactor::PoolTransactor;
use crate::tx::Tx;

/// The queue's own transactions.
pub(in crate::queue) type QueueTransactor<DB> = PoolTransactor<DB, Pessimistic>;

/// Inserts rows, except for those that violate a unique key.
type Insert<DB> = for<'t> fn(&'t mut Tx<DB>, NewRows<'_>) -> BoxFuture<'t, Result<Inserted, sqlx::Error>>;

/// Inserts one job as a transaction of its own, in one round trip. The outer `None` means that these rows
/// cannot be inserted in this way; the inner one, that the acquired connection does not support it.
type InsertAlone<DB> = for<'d> fn(
    &'d QueueTransactor<DB>,
    NewRows<'_>,
) -> Option<BoxFuture<'d, Result<Option<Inserted>, Error>>>;

/// Claims jobs as a transaction of its own, in one round trip. Returns their rows as they were before the
/// claim.
type ClaimRows<DB> =
    for<'d> fn(&'d QueueTransactor<DB>, JobsWanted) -> BoxFuture<'d, Result<Vec<JobRow>, Error>>;

/// Operations that one database performs with the types of its own driver. Where one is missing, the shared
/// statements are used.
pub(in crate::queue) struct DriverCalls<DB: Backend> {
    pub(in crate::queue) insert: Insert<DB>,
    pub(in crate::queue) insert_alone: Option<InsertAlone<DB>>,
    pub(in crate::queue) claim: Option<ClaimRows<DB>>,
}
