//! Row locks, advisory locks, and queries for the sessions that wait for them.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Database;

use super::engine::Engine;
use crate::failure::Failure;
use crate::row_lock::RowLock;
use crate::strategy::Plan;

/// The SQL that acquires locks and shows waits for them.
#[doc(hidden)]
pub trait LockSql: Database {
    /// Whether the database has row locks.
    const HAS_ROW_LOCKS: bool = true;

    /// Returns the clause that locks the rows of a SELECT, on an engine that has the
    /// [lock](Engine::check_lock).
    fn clause(engine: &Engine, lock: RowLock) -> Cow<'static, str>;

    /// Returns the clause that locks the rows of a SELECT; `None` if the database has no row locks. Fails if
    /// the engine lacks this one.
    fn lock_clause(engine: &Engine, lock: RowLock) -> Result<Option<Cow<'static, str>>, Failure> {
        if !Self::HAS_ROW_LOCKS {
            return Ok(None);
        }
        engine.check_lock(lock)?;
        Ok(Some(Self::clause(engine, lock)))
    }

    /// Returns the statement that acquires an advisory lock until the end of the transaction. It returns 1
    /// when the session holds the lock. Without `wait`, it returns 0 at once if another session holds it.
    fn advisory_lock(key: u64, wait: Option<Duration>) -> String;

    /// Returns how old the transaction's snapshot is when an advisory lock is granted. Reads from an older
    /// snapshot are not protected by the lock.
    fn snapshot_age(_engine: &Engine, _plan: &Plan) -> SnapshotAge {
        SnapshotAge::Younger
    }

    /// Whether rolling back to a savepoint releases the advisory locks that were acquired after it was set.
    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool;

    /// Returns the query for which of these sessions wait for locks; `None` if the database does not report
    /// waits.
    fn lock_wait_query(sessions: &[i64]) -> Option<LockWaitQuery>;
}

/// When a transaction takes its snapshot, relative to an advisory lock.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAge {
    /// After the lock was granted, or for each statement anew.
    Younger,
    /// With the first statement that reads.
    FirstStatement,
    /// Before the wait for the lock.
    Older,
}

/// Queries a server for sessions that wait for locks.
#[doc(hidden)]
#[derive(Debug)]
pub struct LockWaitQuery {
    /// One or more statements, sent as one text.
    pub sql: String,
    /// Reads the last column of a row.
    pub read: fn(&str) -> Vec<LockWait>,
}

/// A session that waits for a lock.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockWait {
    /// The session that waits.
    pub session: i64,
    /// The sessions that it waits for, as far as the server reports them.
    pub blocked_by: Vec<i64>,
    /// The lock, in the server's words.
    pub lock: String,
}

/// Appends to a locking clause the table and the wait policy, which are spelled alike everywhere.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) fn whole_clause(clause: &'static str, lock: RowLock) -> Cow<'static, str> {
    use crate::row_lock::WaitPolicy;

    let wait = match lock.wait {
        WaitPolicy::Block => "",
        WaitPolicy::Refuse => " NOWAIT",
        WaitPolicy::Skip => " SKIP LOCKED",
    };
    match lock.table {
        Some(table) => format!("{clause} OF {table}{wait}").into(),
        None if wait.is_empty() => clause.into(),
        None => format!("{clause}{wait}").into(),
    }
}
