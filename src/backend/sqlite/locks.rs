//! SQLite locks the whole database, and has neither row locks nor advisory locks.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Sqlite;

use crate::backend::locks::{LockSql, LockWaitQuery};
use crate::row_lock::RowLock;

impl LockSql for Sqlite {
    fn lock_clause(_lock: RowLock) -> Option<Cow<'static, str>> {
        None
    }

    fn advisory_lock(_key: u64, _wait: Option<Duration>) -> Option<String> {
        None
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = false;

    fn lock_wait_query(_sessions: &[i64]) -> Option<LockWaitQuery> {
        None
    }
}
