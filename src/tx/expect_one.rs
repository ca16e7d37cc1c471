//! The end of an optimistic update.

use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};

use super::Tx;

impl<DB: Backend> Tx<DB> {
    /// Checks that a statement changed exactly one row: the end of every optimistic update.
    ///
    /// # Errors
    ///
    /// No row is a conflict: another transaction has changed the version since it was read, or the row is
    /// gone. The unit is run again, whatever it makes of this error. More than one row is a mistake in the
    /// statement and ends the unit for good.
    ///
    /// # The version
    ///
    /// It must change with every update, so that no two transactions read the same version and both write:
    ///
    /// - Use an integer, `version = version + 1`, declared `NOT NULL DEFAULT 0`. `version = NULL` matches no
    ///   row. A statement that compares a column with a bound NULL and changes no row ends the unit at once,
    ///   as [`Aborted`](crate::ErrorKind::Aborted): at no attempt would it change one. A NULL that the
    ///   statement hides, as `COALESCE(version, 0)` in the SELECT does, is met at every attempt until they
    ///   run out.
    /// - A timestamp is a version only if two updates cannot fall on the same one. In whole seconds
    ///   (`DATETIME` on MySQL and MariaDB, `CURRENT_TIMESTAMP` on SQLite), and even in microseconds, updates
    ///   are lost: the second of two that fall on the same time finds the version that it has read.
    ///
    /// # How databases count
    ///
    /// Pass the count of an `UPDATE` or a `DELETE`. Others count differently:
    ///
    /// - `INSERT … ON DUPLICATE KEY UPDATE` and `REPLACE` on MySQL and MariaDB count 2 for a row that they
    ///   change, which ends the unit.
    /// - `INSERT IGNORE`, `INSERT OR IGNORE` and `ON CONFLICT DO NOTHING` count 0 for a row that is there
    ///   already, which runs the unit again.
    pub fn expect_one(&mut self, rows_affected: u64) -> Result<(), Error> {
        let failure = match rows_affected {
            1 => return Ok(()),
            0 => self.why_none(),
            rows => Failure::new(
                FailureKind::Aborted,
                format!(
                    "one row was to be changed, {rows} were: narrow the WHERE down to one row (an upsert or \
                     a REPLACE on \
                     MySQL and MariaDB counts 2 for each row that it changes)"
                ),
            ),
        };
        self.state.end(failure.clone());
        Err(Error::failed(failure, None))
    }

    fn why_none(&self) -> Failure {
        match self.latest.as_ref().and_then(|update| update.column_compared_with_null()) {
            Some(column) => Failure::new(
                FailureKind::Aborted,
                format!(
                    "no row was changed, and none ever will be: {column} is compared with NULL, which \
                     equals nothing; give \
                     the rows a {column} and declare it NOT NULL, or compare it with IS NULL"
                ),
            ),
            None => {
                Failure::new(FailureKind::StaleVersion, "one row was to be changed, none was").retryable(true)
            }
        }
    }
}
