use sqlx::Pool;

use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::{PoolTransactor, With};

/// Lets the database compute: one statement that reads and writes at once (`SET stock = stock - 1`).
///
/// # When to use
///
/// The new value is an expression of the old one, and the rule that guards it fits in the `WHERE`
/// (`AND stock >= 1`). A single statement goes through [`PoolTransactor::apply`], without BEGIN and COMMIT; several that
/// belong together are a unit like any other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Atomic;

impl Atomic {
    /// Binds the strategy to a pool.
    #[must_use]
    pub fn on<DB: Backend>(self, pool: &Pool<DB>) -> PoolTransactor<DB, Self> {
        PoolTransactor::new(self, pool)
    }
}

impl Strategy for Atomic {
    fn name(&self) -> &'static str {
        "atomic"
    }

    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(Isolation::ReadCommitted)
    }
}

impl<DB: Backend> PoolTransactor<DB, Atomic> {
    /// Runs one statement as its own transaction, in one round trip, and answers how many rows it touched.
    ///
    /// ```
    /// # use atomically::Atomic;
    /// # async fn example(pool: &sqlx::SqlitePool) -> Result<(), atomically::Error> {
    /// let db = Atomic::default().on(pool);
    /// let sold = db
    ///     .apply(sqlx::query("UPDATE product SET stock = stock - 1 WHERE id = $1 AND stock >= 1").bind(7))
    ///     .await?;
    /// if sold == 0 {
    ///     println!("sold out");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// The statement runs at the isolation level of its session, and runs again when a conflict undid it.
    ///
    /// # What is not one transaction
    ///
    /// - A statement that may store a part of its work before it fails is sent once and never again, whatever the
    ///   strategy and the failure: `CALL`, `DO` and what works `CONCURRENTLY` on PostgreSQL, `CALL`, `EXECUTE` and
    ///   compound statements on MySQL and MariaDB, `OR FAIL` on SQLite, and any text that cannot be read. The error says
    ///   so.
    /// - Several statements in one text are one transaction on PostgreSQL, if none of them is of that kind. On MySQL,
    ///   MariaDB and SQLite they are refused as [`Unsupported`](crate::ErrorKind::Unsupported).
    /// - What begins or ends a transaction, sets a savepoint or locks tables is refused as
    ///   [`Aborted`](crate::ErrorKind::Aborted): it would stay behind on a connection of the pool.
    ///
    /// A table without transactions (MyISAM) is beyond this: a statement that failed in the middle runs again.
    ///
    /// # Why only here?
    ///
    /// The other strategies promise something about the transaction around a statement, and here there is none.
    ///
    /// # Errors
    ///
    /// As those of a unit of work. A connection that breaks while the statement is in flight, or a deadline that passes
    /// then, leaves a [commit unknown](crate::Error::is_commit_unknown): nothing tells the statement from its commit.
    ///
    /// # Cancellation
    ///
    /// The statement may or may not be stored. The connection is closed.
    ///
    /// # Limits
    ///
    /// The server is not told of the deadline: that would take a round trip of its own. A statement that
    /// waits for a lock when the deadline passes, or when its future is dropped, goes on waiting there, and
    /// is stored when it gets the lock. Until then its session counts against the server's limit on
    /// connections, and once there are 8 of them against the pool's. Where locks are held for long, run a
    /// unit, or set limits for the sessions of the pool: `lock_timeout` or `statement_timeout` on PostgreSQL,
    /// `innodb_lock_wait_timeout` and `lock_wait_timeout` on MySQL and MariaDB, for example in
    /// `after_connect`.
    pub async fn apply<'q>(&self, query: impl sqlx::Execute<'q, DB>) -> Result<u64, Error> {
        self.apply_statement(WatchedQuery::new(query)?).await
    }
}

impl<DB: Backend> With<'_, PoolTransactor<DB, Atomic>> {
    /// The same as [`PoolTransactor::apply`], with these options.
    ///
    /// # Errors
    ///
    /// Those of [`PoolTransactor::apply`].
    pub async fn apply<'q>(&self, query: impl sqlx::Execute<'q, DB>) -> Result<u64, Error> {
        self.apply_statement(WatchedQuery::new(query)?).await
    }
}
