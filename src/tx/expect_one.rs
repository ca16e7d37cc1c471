//! Checks that an optimistic update changed its row.

use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};

use super::Tx;

impl<DB: Backend> Tx<DB> {
    /// Checks that a statement changed exactly one row. Call it after every optimistic update.
    ///
    /// # Errors
    ///
    /// - No row: a conflict, because another transaction has changed the version since it was read, or has
    ///   deleted the row. The unit is retried, even if it ignores this error.
    /// - More than one row: the statement is wrong, and the unit fails without a retry.
    ///
    /// # The version
    ///
    /// Every update must change the version, so that no two transactions read the same version and both
    /// write:
    ///
    /// - Use an integer, `version = version + 1`, declared `NOT NULL DEFAULT 0`. `version = NULL` matches no
    ///   row: a statement that compares a column with a bound NULL and changes no row ends the unit at once
    ///   as [`Aborted`](crate::ErrorKind::Aborted), because no attempt could succeed. If the SELECT hides the
    ///   NULL, as with `COALESCE(version, 0)`, every attempt fails until the attempts are exhausted.
    /// - A timestamp works as a version only if two updates cannot have the same one. With whole seconds
    ///   (`DATETIME` on MySQL and MariaDB, `CURRENT_TIMESTAMP` on SQLite), and even with microseconds,
    ///   updates are lost: the second of two updates with the same timestamp finds the version that it has
    ///   read.
    ///
    /// # Which count to pass
    ///
    /// Pass the count of an `UPDATE` or a `DELETE`. Other statements count differently:
    ///
    /// - `INSERT … ON DUPLICATE KEY UPDATE` and `REPLACE` on MySQL and MariaDB count 2 for a row that they
    ///   change, which ends the unit.
    /// - `INSERT IGNORE`, `INSERT OR IGNORE` and `ON CONFLICT DO NOTHING` count 0 for a row that exists
    ///   already, which retries the unit.
    pub fn expect_one(&mut self, rows_affected: u64) -> Result<(), Error> {
        if rows_affected == 1 {
            return Ok(());
        }
        let failure = unexpected_rows(rows_affected, self.latest.as_ref());
        self.state.end(failure.clone());
        Err(Error::failed(failure, None))
    }
}

/// Returns the failure of a statement that was to change one row.
pub(super) fn unexpected_rows<DB: Backend>(rows: u64, statement: Option<&WatchedQuery<DB>>) -> Failure {
    if rows > 0 {
        let message = format!(
            "expected to change one row, changed {rows}: narrow the WHERE to one row (an upsert or a REPLACE \
             on MySQL and MariaDB counts 2 for each row that it changes)"
        );
        return Failure::new(FailureKind::Aborted, message);
    }
    match statement.and_then(WatchedQuery::column_compared_with_null) {
        Some(column) => Failure::new(
            FailureKind::Aborted,
            format!(
                "no row was changed, and a retry would not change one either: {column} is compared \
                 with NULL, which equals nothing; set {column} in these rows and declare it NOT NULL, \
                 or compare it with IS NULL"
            ),
        ),
        None => Failure::new(FailureKind::StaleVersion, "expected to change one row, changed none")
            .retryable(true),
    }
}
