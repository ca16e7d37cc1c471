use sqlx::Pool;

use crate::backend::{Backend, WatchedQuery};
use crate::error::Error;
use crate::isolation::Isolation;
use crate::strategy::{Attempt, Plan, Strategy};
use crate::transactor::{PoolTransactor, With};

/// Lets the database compute the new value in the statement that stores it (`SET stock = stock - 1`).
///
/// # When to use
///
/// Use it if the new value is an expression of the old one, and the condition that guards it fits into the
/// `WHERE` (`AND stock >= 1`). Run a single statement with [`PoolTransactor::apply`], which sends neither
/// BEGIN nor COMMIT. Several statements that belong together are a unit like any other.
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
    /// Runs one statement as its own transaction, in one round trip, and returns how many rows it affected.
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
    /// The statement runs at the isolation level of its session. It is retried if a conflict rolled it back.
    /// If the options have [settings](crate::Options::setting) or a role, it runs in a transaction, which
    /// takes two more round trips.
    ///
    /// # What is not one transaction
    ///
    /// - A statement that may store a part of its work before it fails is sent once and never retried,
    ///   whatever the strategy and the failure: `CALL`, `DO` and statements with `CONCURRENTLY` on
    ///   PostgreSQL, `CALL`, `EXECUTE` and compound statements on MySQL and MariaDB, `OR FAIL` on SQLite, and
    ///   any text that the crate cannot parse. The error says so.
    /// - Several statements in one text are one transaction on PostgreSQL, unless one of them is of that
    ///   kind. On MySQL, MariaDB and SQLite they are refused with
    ///   [`Unsupported`](crate::ErrorKind::Unsupported).
    /// - A statement that begins or ends a transaction, sets a savepoint or locks tables is refused with
    ///   [`Aborted`](crate::ErrorKind::Aborted): its effect would stay on a connection of the pool.
    ///
    /// Tables without transactions (MyISAM) are not covered: a statement on them that failed half-way is
    /// retried.
    ///
    /// If other code of the program has begun a transaction with a text of its own and returned the
    /// connection to the pool, the statement becomes a part of that transaction: it is reported as stored,
    /// and is not committed. To find out would take another round trip. sqlx's `begin` leaves no such
    /// connection.
    ///
    /// # Why under `Atomic` only?
    ///
    /// The other strategies make guarantees about the transaction around a statement, and here there is none.
    ///
    /// # Errors
    ///
    /// Returns the same errors as a unit of work. If the connection breaks or the deadline passes while the
    /// statement is in flight, the error is [`CommitUnknown`](crate::Error::is_commit_unknown), because the
    /// statement commits by itself.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the statement may or may not be stored, and the connection is closed.
    ///
    /// # Limits
    ///
    /// The server does not know the deadline: sending it would take another round trip. A statement that
    /// waits for a lock when the deadline passes, or when its future is dropped, keeps waiting on the server,
    /// and is stored when it acquires the lock. Until then its session counts towards the server's limit on
    /// connections and, beyond 8 such sessions, towards the pool's. Where locks are held for long, run a
    /// unit, or set limits for the sessions of the pool: `lock_timeout` or `statement_timeout` on PostgreSQL,
    /// `innodb_lock_wait_timeout` and `lock_wait_timeout` on MySQL and MariaDB, for example in
    /// `after_connect`.
    pub async fn apply<'q>(&self, query: impl sqlx::Execute<'q, DB>) -> Result<u64, Error> {
        self.apply_statement(WatchedQuery::new(query)?).await
    }
}

impl<DB: Backend> With<'_, PoolTransactor<DB, Atomic>> {
    /// Runs one statement like [`PoolTransactor::apply`], with these options.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`PoolTransactor::apply`].
    pub async fn apply<'q>(&self, query: impl sqlx::Execute<'q, DB>) -> Result<u64, Error> {
        self.apply_statement(WatchedQuery::new(query)?).await
    }
}
