//! SQLite locks the whole database, and has neither row locks nor advisory locks.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Sqlite;

use crate::backend::engine::Engine;
use crate::backend::locks::{LockSql, LockWaitQuery};
use crate::row_lock::RowLock;

impl LockSql for Sqlite {
    const HAS_ROW_LOCKS: bool = false;

    fn clause(_engine: &Engine, _lock: RowLock) -> Cow<'static, str> {
        Cow::Borrowed("")
    }

    fn advisory_lock(_key: u64, _wait: Option<Duration>) -> String {
        String::new()
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = false;

    fn lock_wait_query(_sessions: &[i64]) -> Option<LockWaitQuery> {
        None
    }
}
