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

/// Inserts rows, but for those that violate a unique key.
type Insert<DB> = for<'t> fn(&'t mut Tx<DB>, NewRows<'_>) -> BoxFuture<'t, Result<Inserted, sqlx::Error>>;

/// Inserts one job as a transaction of its own, in one round trip. The outer `None` means that this is not
/// possible for these rows, the inner one that it was not on the connection that was acquired.
type InsertAlone<DB> = for<'d> fn(
    &'d QueueTransactor<DB>,
    NewRows<'_>,
) -> Option<BoxFuture<'d, Result<Option<Inserted>, Error>>>;

/// Claims jobs as a transaction of its own, in one round trip. Returns their rows as they were before.
type ClaimRows<DB> =
    for<'d> fn(&'d QueueTransactor<DB>, JobsWanted) -> BoxFuture<'d, Result<Vec<JobRow>, Error>>;

/// What one database does by means of its own driver. The statements that all databases share stand in for
/// what is missing.
pub(in crate::queue) struct DriverCalls<DB: Backend> {
    pub(in crate::queue) insert: Insert<DB>,
    pub(in crate::queue) insert_alone: Option<InsertAlone<DB>>,
    pub(in crate::queue) claim: Option<ClaimRows<DB>>,
}
