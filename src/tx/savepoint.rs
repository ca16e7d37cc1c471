//! Savepoints: parts of a transaction that can be rolled back on their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scopeguard::ScopeGuard;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::backend::Backend;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::intercept::StepKind;

use super::admit::admit_control;
use super::executor::StatementParts;
#[cfg(feature = "testing")]
use super::savepoint_scope::SavepointScope;
use super::{ScopeFn, Tx, UnitError, send};

impl<DB: Backend> Tx<DB> {
    /// Runs a part of the unit in a savepoint: if the closure returns `Err`, its changes are rolled back and
    /// the transaction continues.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// # Pessimistic::default().on(&pool).run(async |tx| {
    /// let noted = tx
    ///     .savepoint(async |tx| -> Result<_, Error> {
    ///         sqlx::query("INSERT INTO audit (id) VALUES (1)").execute(&mut *tx).await?;
    ///         Ok(())
    ///     })
    ///     .await;
    /// if noted.is_err() {
    ///     sqlx::query("UPDATE audit SET missed = missed + 1").execute(&mut *tx).await?;
    /// }
    /// # Ok::<_, Error>(()) }).await }
    /// ```
    ///
    /// Savepoints nest to any depth. The closure runs once.
    ///
    /// # Failures that it recovers from
    ///
    /// The transaction continues after a constraint violation, a `NOWAIT` lock that is not available, a
    /// statement that the database rejects, and the closure's own errors. If the closure hides such a failure
    /// and returns `Ok`, the savepoint is rolled back and the failure is returned.
    ///
    /// # Failures that end the unit
    ///
    /// Conflicts and failures that end the session end the unit. After a serialization failure or a deadlock,
    /// later statements return that failure, and the whole unit is retried. Rolling back to the savepoint
    /// would not help: on PostgreSQL the same failure would occur again, and on MySQL and MariaDB the
    /// savepoint is gone.
    ///
    /// # Errors
    ///
    /// Returns the closure's own error, or an error of this crate converted to the closure's error type.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before the closure has ended ends the transaction, because the savepoint's changes
    /// are incomplete.
    pub async fn savepoint<F, T, E>(&mut self, scope: F) -> Result<T, E>
    where
        F: ScopeFn<DB, T, E>,
        E: UnitError,
    {
        let name = format!("atomically_{}", self.depth + 1);
        let before = Before { hooks: self.hooks.len(), advisory_locks: self.closing.advisory_locks.len() };
        self.control(format!("SAVEPOINT {name}")).await?;

        let dropped = self.state.watch_for_drops();
        let on_drop =
            scopeguard::guard(dropped, |dropped: Arc<AtomicBool>| dropped.store(true, Ordering::Release));
        self.depth += 1;
        #[cfg(feature = "testing")]
        let (recorded, result) = {
            let open = SavepointScope::open();
            (open.clone(), open.run(scope(&mut *self)).await)
        };
        #[cfg(not(feature = "testing"))]
        let result = scope(&mut *self).await;
        self.depth -= 1;
        ScopeGuard::into_inner(on_drop);

        let failure = self.state.over().cloned();
        #[cfg(feature = "testing")]
        if result.is_err() || failure.is_some() {
            recorded.undo();
        }
        match (result, failure) {
            (Ok(value), None) => {
                self.control(format!("RELEASE SAVEPOINT {name}")).await?;
                Ok(value)
            }
            (Ok(_), Some(failure)) => {
                if is_recoverable(&failure) {
                    self.undo(&name, before).await;
                }
                Err(Error::swallowed(failure, None).into())
            }
            (Err(error), failure) => {
                if failure.as_ref().is_none_or(is_recoverable) {
                    self.undo(&name, before).await;
                }
                Err(error)
            }
        }
    }

    /// Rolls back to the savepoint. If that fails, the transaction has ended, and the caller still returns
    /// the error that caused the rollback.
    async fn undo(&mut self, savepoint: &str, before: Before) {
        self.state.clear_failure();
        self.hooks.undo(before.hooks);
        if DB::SAVEPOINTS_HOLD_ADVISORY_LOCKS {
            self.closing.advisory_locks.truncate(before.advisory_locks);
        }
        let _ = self.control(DB::rollback_to(savepoint)).await;
    }

    /// Runs a statement of this crate, whose failure ends the transaction, and returns the integers in its
    /// result.
    pub(super) async fn control(&mut self, sql: String) -> Result<Vec<i64>, Error> {
        let StatementParts { state, connection, interception, .. } = self.parts();
        admit_control::<DB>(state, connection).await?;
        state.begin_statement(|| AssertSqlSafe(sql.clone()).into_sql_str());
        let reply = send::<DB>(interception, connection, StepKind::Control, sql).await;
        state.end_control::<DB>(reply.error)?;
        Ok(reply.integers)
    }
}

/// The state of the transaction when the savepoint was set.
#[derive(Debug, Clone, Copy)]
struct Before {
    hooks: usize,
    advisory_locks: usize,
}

/// Returns whether a database can continue from a savepoint after this failure.
fn is_recoverable(failure: &Failure) -> bool {
    !failure.ends_session()
        && matches!(
            failure.kind(),
            FailureKind::Constraint
                | FailureKind::LockNotAvailable
                | FailureKind::StatementTimeout
                | FailureKind::Unsupported
                | FailureKind::InvalidInput
                | FailureKind::Other
        )
}
