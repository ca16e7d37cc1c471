//! Additions to the numbers of rows, several in one statement.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::{Arguments as _, AssertSqlSafe, Database, SqlSafeStr as _, SqlStr};

use super::codec::{Codec, Key, Value};
use super::engine::Engine;
use super::query::WatchedQuery;
use super::statements::StatementRules;
#[cfg(feature = "holds")]
use crate::schema::Schema;
use crate::strategy::Limits;

/// The SQL that adds to a numeric column.
#[doc(hidden)]
pub trait AdditionSql: Codec + StatementRules {
    /// Returns the statement that adds to the numbers of many rows. If a key occurs twice, only its first
    /// occurrence counts.
    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, BoxDynError> {
        let Target { table, key, column } = target;
        let mut arguments = Self::Arguments::default();
        let mut values = Vec::with_capacity(changes.len());
        for (i, (id, delta)) in changes.iter().enumerate() {
            arguments.add(*id)?;
            Self::bind(&mut arguments, Value::Integer(*delta))?;
            values.push(format!("({}, {})", Self::placeholder(2 * i + 1), Self::placeholder(2 * i + 2)));
        }
        let values = values.join(", ");
        let sql = format!(
            "WITH change (id, delta) AS (VALUES {values}) \
             UPDATE {table} AS target SET {column} = target.{column} + change.delta FROM change \
             WHERE target.{key} = change.id AND change.delta <> 0"
        );
        Ok(WatchedQuery::with_arguments(AssertSqlSafe(sql).into_sql_str(), arguments))
    }

    /// Whether a transaction that adds locks the rows in the text of its opening, and writes in that of its
    /// COMMIT.
    const ADDS_AT_COMMIT: bool = false;

    /// Returns whether this engine [adds at the commit](Self::ADDS_AT_COMMIT).
    fn adds_at_commit(_engine: &Engine) -> bool {
        Self::ADDS_AT_COMMIT
    }

    /// Returns the statement that fails unless these rows hold these numbers: see
    /// [`is_failed_check`](super::folded::FoldedSql::is_failed_check). `None` unless the database [adds at
    /// the commit](Self::ADDS_AT_COMMIT).
    fn check_numbers<K: Key<Self>>(
        _target: Target,
        _numbers: &[(&K, i64)],
    ) -> Option<Result<WatchedQuery<Self>, BoxDynError>> {
        None
    }

    /// Returns the statement that checks and adds in one round trip; `None` if the database needs several,
    /// or does not support keys of this type.
    fn add_in_one_statement<K: Key<Self>>(_target: Target) -> Option<Box<dyn AddInOneStatement<Self, K>>> {
        None
    }

    /// Returns the statement that checks, subtracts and stores holds in one round trip; `None` if the
    /// database needs several, or does not support keys of this type.
    #[cfg(feature = "holds")]
    fn hold_in_one_statement<K: Key<Self>>(
        _target: Target,
        _records: HoldRecords<'_>,
    ) -> Option<Box<dyn HoldInOneStatement<Self, K>>> {
        None
    }
}

/// A column of numbers, and the key column of its rows. The names are written into statements as they are.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The table.
    pub table: &'static str,
    /// The column with the keys.
    pub key: &'static str,
    /// The column with the numbers.
    pub column: &'static str,
}

/// An addition to the number of one row, made only if the number is within `to`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Addition<'k, K> {
    /// The key of the row.
    pub key: &'k K,
    /// The amount.
    pub delta: i64,
    /// The numbers that may be added to.
    pub to: RangeInclusive<i64>,
}

/// The maximum wait of a single statement for a row lock: long enough for the commit of another batch, on
/// another connection or in another process.
const MAX_LOCK_WAIT: Duration = Duration::from_millis(5);

/// Returns a hundredth of the time that is left, so that the server responds before the time is over; `None`
/// if that is too short.
pub(crate) fn short_lock_wait(left: Duration) -> Option<Duration> {
    let limit = MAX_LOCK_WAIT.min(left / 100);
    (limit >= Duration::from_millis(1)).then_some(limit)
}

/// Makes additions in one round trip, which is a transaction of its own.
#[doc(hidden)]
pub trait AddInOneStatement<DB: Database, K>: Send + Sync {
    /// The statement as observers see it, without its values.
    fn sql(&self) -> SqlStr;

    /// Returns whether the engine has what the statement needs.
    fn runs_on(&self, engine: &Engine) -> bool {
        engine.adds_in_one_statement()
    }

    /// Returns how long the statement is to wait for a lock if this much time is left for its results, which
    /// is long before the time is over; `None` if too little is left.
    fn lock_wait(&self, left: Duration) -> Option<Duration> {
        short_lock_wait(left)
    }

    /// Returns the additions that were made, by their index, each with the number before it. The others
    /// were not made: the row is missing, or its number is out of the requested range. An error that is not
    /// about the connection means that none was made: a row was locked for too long, or a key is not
    /// unique.
    ///
    /// The returned future does not borrow `additions`: the text of the statement is built before this
    /// returns.
    fn add<'c>(
        &self,
        connection: &'c mut DB::Connection,
        additions: &[Addition<'_, K>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>>;
}

/// Where holds are stored.
#[cfg(feature = "holds")]
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct HoldRecords<'a> {
    /// The name of the target, which is stored with each hold.
    pub name: &'a str,
    /// The names of the crate's tables.
    pub schema: Schema,
}

/// Holds of the same amount of one row, whose ids follow one another.
#[cfg(feature = "holds")]
#[doc(hidden)]
#[derive(Debug)]
pub struct HoldGroup<'a> {
    /// The addition of which these holds are a part, by its index.
    pub addition: usize,
    /// The id of the first hold.
    pub first_id: i64,
    /// The token of each hold.
    pub tokens: &'a [i64],
    /// The key of the row, as text.
    pub row_key: &'a str,
    /// The amount that each hold takes from the row.
    pub amount: i64,
    /// How long the holds last, in microseconds.
    pub ttl: i64,
}

/// Makes additions and stores their holds in one round trip, which is a transaction of its own.
#[cfg(feature = "holds")]
#[doc(hidden)]
pub trait HoldInOneStatement<DB: Database, K>: Send + Sync {
    /// The statement as observers see it, without its values.
    fn sql(&self) -> SqlStr;

    /// Returns the additions that were made, by their index, each with the time of the database in
    /// microseconds since 1970. Their holds are stored, and no others. See [`AddInOneStatement::add`].
    fn hold<'c>(
        &self,
        connection: &'c mut DB::Connection,
        additions: &[Addition<'_, K>],
        holds: &[HoldGroup<'_>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_a_lock_is_far_shorter_than_the_time_that_is_left() {
        let wait = |millis| short_lock_wait(Duration::from_millis(millis));
        assert_eq!(wait(10_000), Some(MAX_LOCK_WAIT));
        assert!(wait(400).is_some_and(|wait| wait <= Duration::from_millis(4)));
        assert_eq!((wait(99), wait(0)), (None, None));
    }
}
