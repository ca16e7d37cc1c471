//! Scopes inside a transaction that can be undone on their own.

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
use super::{ScopeFn, Tx, send};

impl<DB: Backend> Tx<DB> {
    /// Runs a part of the unit that may fail on its own: its `Err` undoes what it did, and the unit goes on.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// # Pessimistic::default().on(&pool).run(async |tx| {
    /// let noted = tx
    ///     .savepoint(async |tx| {
    ///         sqlx::query("INSERT INTO audit (id) VALUES (1)").execute(&mut *tx).await?;
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await;
    /// if noted.is_err() {
    ///     sqlx::query("UPDATE audit SET missed = missed + 1").execute(&mut *tx).await?;
    /// }
    /// # Ok::<_, Error>(()) }).await }
    /// ```
    ///
    /// Scopes nest to any depth. The closure runs once.
    ///
    /// # What it can rescue
    ///
    /// A constraint violation, a refused `NOWAIT`, a statement that the database could not make sense of, and
    /// errors of the unit's own. A scope that hides such a failure and returns `Ok` is undone and answers the
    /// failure.
    ///
    /// # What it cannot
    ///
    /// A conflict, or a failure that ends the session. After a serialization failure or a deadlock there is
    /// nothing left to go on with: the failure outlives the scope, later statements answer it, and the whole
    /// unit is run again. Rolling back to a savepoint would meet the same failure for ever on PostgreSQL, and
    /// there is no savepoint left on MySQL and MariaDB.
    ///
    /// # Errors
    ///
    /// The closure's own; or this crate's, turned into its type.
    ///
    /// # Cancellation
    ///
    /// A scope that is dropped before its end leaves half of what it did: the transaction is over.
    pub async fn savepoint<F, T, E>(&mut self, scope: F) -> Result<T, E>
    where
        F: ScopeFn<DB, T, E>,
        E: From<Error>,
    {
        let name = format!("atomically_{}", self.depth + 1);
        let before = Before { hooks: self.hooks.len(), advisory_locks: self.closing.advisory_locks.len() };
        self.control(format!("SAVEPOINT {name}")).await?;

        let dropped = self.state.watch_for_drops();
        let left_open =
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
        ScopeGuard::into_inner(left_open);

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
                if can_be_undone(&failure) {
                    self.undo(&name, before).await;
                }
                Err(Error::swallowed(failure, None).into())
            }
            (Err(error), failure) => {
                if failure.as_ref().is_none_or(can_be_undone) {
                    self.undo(&name, before).await;
                }
                Err(error)
            }
        }
    }

    /// Back to where the scope began. Where that fails there is no transaction any more, and nothing hides
    /// the error that led here.
    async fn undo(&mut self, savepoint: &str, before: Before) {
        self.state.forgive();
        self.hooks.undo(before.hooks);
        if DB::SAVEPOINTS_HOLD_ADVISORY_LOCKS {
            self.closing.advisory_locks.truncate(before.advisory_locks);
        }
        let _ = self.control(DB::rollback_to(savepoint)).await;
    }

    /// A statement of the crate's own, whose failure ends the transaction. Answers the integers that it
    /// answers.
    pub(super) async fn control(&mut self, sql: String) -> Result<Vec<i64>, Error> {
        let StatementParts { state, connection, interception, .. } = self.parts();
        admit_control::<DB>(state, connection).await?;
        state.begin_statement(|| AssertSqlSafe(sql.clone()).into_sql_str());
        let reply = send::<DB>(interception, connection, StepKind::Control, sql).await;
        state.end_control::<DB>(reply.error)?;
        Ok(reply.integers)
    }
}

/// How much there was of what a scope may add to.
#[derive(Debug, Clone, Copy)]
struct Before {
    hooks: usize,
    advisory_locks: usize,
}

/// Failures after which a database goes on from a savepoint as if nothing had been.
fn can_be_undone(failure: &Failure) -> bool {
    !failure.ends_session()
        && matches!(
            failure.kind(),
            FailureKind::Constraint
                | FailureKind::LockNotAvailable
                | FailureKind::StatementTimeout
                | FailureKind::Unsupported
                | FailureKind::Other
        )
}
