//! Savepoints: parts of a transaction that can be rolled back on their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scopeguard::ScopeGuard;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::backend::{Backend, Capability};
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
    /// # Pessimistic::default().on(&pool).run(async |tx| -> Result<_, Error> {
    /// let noted = tx
    ///     .savepoint(async |tx| -> Result<_, Error> {
    ///         sqlx::query("INSERT INTO audit (id) VALUES (1)").execute(&mut *tx).await?;
    ///         Ok(())
    ///     })
    ///     .await;
    /// if noted.is_err() {
    ///     sqlx::query("UPDATE audit SET missed = missed + 1").execute(&mut *tx).await?;
    /// }
    /// # Ok(()) }).await }
    /// ```
    ///
    /// Savepoints nest to any depth. The closure runs once.
    ///
    /// # Round trips
    ///
    /// Setting a savepoint takes one round trip, and rolling back to it another one. Releasing it takes none
    /// if the next statement sets another savepoint or is COMMIT, and on MySQL and MariaDB it never takes
    /// any.
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
    /// Returns the closure's own error, or an error of this crate converted to the closure's error type:
    /// [`Unsupported`](crate::ErrorKind::Unsupported) on an [engine](crate::Engine) that has no savepoints.
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
        let savepoint = self.set_savepoint().await?;
        let dropped = self.state.watch_for_drops();
        let on_drop =
            scopeguard::guard(dropped, |dropped: Arc<AtomicBool>| dropped.store(true, Ordering::Release));
        #[cfg(feature = "testing")]
        let (recorded, result) = {
            let open = SavepointScope::open();
            (open.clone(), open.run(scope(&mut *self)).await)
        };
        #[cfg(not(feature = "testing"))]
        let result = scope(&mut *self).await;
        ScopeGuard::into_inner(on_drop);

        #[cfg(feature = "testing")]
        if result.is_err() || self.state.over().is_some() {
            recorded.undo();
        }
        match result {
            Ok(value) => {
                self.release_savepoint(savepoint).await?;
                Ok(value)
            }
            Err(error) => {
                self.undo_savepoint(savepoint).await;
                Err(error)
            }
        }
    }

    /// Returns the flag that ends the transaction if it is set when the unit ends: for parts of the unit that
    /// were dropped before their end.
    #[cfg(feature = "sea-orm")]
    pub(crate) fn watch_for_drops(&mut self) -> Arc<AtomicBool> {
        self.state.watch_for_drops()
    }

    /// Sets a savepoint inside of those that are open.
    pub(crate) async fn set_savepoint(&mut self) -> Result<OpenSavepoint, Error> {
        self.require(Capability::Savepoints)?;
        let savepoint = OpenSavepoint {
            name: format!("atomically_{}", self.depth + 1),
            hooks: self.hooks.len(),
            advisory_locks: self.closing.advisory_locks.len(),
            kept: self.kept.len(),
        };
        let set = format!("SAVEPOINT {}", savepoint.name);
        let set = match self.state.unreleased.take() {
            Some(release) => format!("{release}; {set}"),
            None => set,
        };
        self.control(set).await?;
        self.depth += 1;
        Ok(savepoint)
    }

    /// Releases the innermost savepoint. If a failure was ignored inside, rolls back to the savepoint if that
    /// is possible, and returns the failure.
    pub(crate) async fn release_savepoint(&mut self, savepoint: OpenSavepoint) -> Result<(), Error> {
        let Some(failure) = self.state.over().cloned() else {
            self.depth -= 1;
            // Also releases those inside.
            let release = format!("RELEASE SAVEPOINT {}", savepoint.name);
            if !self.postpones_release() {
                self.state.unreleased = None;
                self.control(release).await?;
            } else if !DB::SAVEPOINTS_REPLACE_EACH_OTHER {
                self.state.unreleased = Some(release);
            }
            return Ok(());
        };
        self.undo_savepoint(savepoint).await;
        Err(Error::swallowed(failure, None))
    }

    /// Returns whether a savepoint is released together with the next statement of this crate. The release
    /// is sent at once if it may fail although the transaction has seen no failure, and under the test kit,
    /// which schedules each step.
    fn postpones_release(&self) -> bool {
        self.interception.is_none()
            && !self.state.is_unwatched()
            && !self.state.is_in_question()
            && !self.state.has_savepoints
            && (DB::SAVEPOINTS_REPLACE_EACH_OTHER || !self.state.takes_one_at_a_time)
    }

    /// Rolls back to the innermost savepoint, unless a failure has ended the transaction.
    pub(crate) async fn undo_savepoint(&mut self, savepoint: OpenSavepoint) {
        self.depth -= 1;
        if self.state.over().is_none_or(is_recoverable) {
            self.undo(savepoint).await;
        }
    }

    /// Rolls back to the savepoint. If that fails, the transaction has ended, and the caller still returns
    /// the error that caused the rollback.
    async fn undo(&mut self, savepoint: OpenSavepoint) {
        self.state.clear_failure();
        // A rollback to a savepoint removes those inside.
        self.state.unreleased = None;
        self.hooks.undo(savepoint.hooks);
        self.kept.truncate(savepoint.kept);
        if DB::SAVEPOINTS_HOLD_ADVISORY_LOCKS {
            self.closing.advisory_locks.truncate(savepoint.advisory_locks);
        }
        let _ = self.control(DB::rollback_to(&savepoint.name)).await;
    }

    /// Runs a statement of this crate, whose failure ends the transaction, and returns the integers in its
    /// result.
    pub(super) async fn control(&mut self, sql: String) -> Result<Vec<i64>, Error> {
        let StatementParts { state, connection, interception, .. } = self.parts();
        admit_control::<DB>(state, connection).await?;
        state.begin_statement(|| AssertSqlSafe(sql.clone()).into_sql_str());
        let reply = send::<DB>(interception, connection, StepKind::Control, sql).await;
        let is_failed = reply.error.is_some();
        let unreported = if is_failed { DB::unreported_abort(&self.closing()) } else { None };
        self.state.end_control::<DB>(reply.error, unreported)?;
        Ok(reply.integers)
    }
}

/// A savepoint, and the state of the transaction when it was set.
#[derive(Debug)]
pub(crate) struct OpenSavepoint {
    name: String,
    hooks: usize,
    advisory_locks: usize,
    kept: usize,
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
