//! Numbers that are added to in one round trip.

use std::ops::RangeInclusive;

use futures_core::future::BoxFuture;
use sqlx::{Database, SqlStr};

use crate::strategy::Limits;

/// What is added to the number of a row, if that number is one of these.
#[doc(hidden)]
#[derive(Debug)]
pub struct Addition<'k, K> {
    /// Which row.
    pub key: &'k K,
    /// How much.
    pub delta: i64,
    /// To what.
    pub to: RangeInclusive<i64>,
}

/// Adds to the numbers of rows in one round trip, which is a transaction of its own.
#[doc(hidden)]
pub trait AddInOneStatement<DB: Database, K>: Send + Sync {
    /// The statement, for those who watch: without its values.
    fn sql(&self) -> SqlStr;

    /// Answers which additions were made, by their places in the list, and what the numbers were before. The
    /// others were not: the row is not there, or its number is none of those that were asked for. An error
    /// that is not about the connection means that none was: a row is locked for too long, or one of several
    /// with its key.
    ///
    /// The text is made before this returns.
    fn add<'c>(
        &self,
        connection: &'c mut DB::Connection,
        additions: &[Addition<'_, K>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>>;
}
