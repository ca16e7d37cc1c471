//! Row locks, advisory locks, and queries for the sessions that wait for them.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Postgres;

use crate::backend::engine::Engine;
use crate::backend::locks::{LockSql, LockWait, LockWaitQuery, SnapshotAge, whole_clause};
use crate::isolation::Isolation;
use crate::row_lock::{RowLock, Strength};
use crate::strategy::Plan;

impl LockSql for Postgres {
    fn clause(engine: &Engine, lock: RowLock) -> Cow<'static, str> {
        let clause = match engine.available_lock(lock).strength {
            Strength::Update => "FOR UPDATE",
            Strength::NoKeyUpdate => "FOR NO KEY UPDATE",
            Strength::Share => "FOR SHARE",
            Strength::KeyShare => "FOR KEY SHARE",
        };
        whole_clause(clause, lock)
    }

    fn advisory_lock(key: u64, wait: Option<Duration>) -> String {
        let key = key.cast_signed();
        match wait {
            Some(_) => format!("SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock({key})) AS taken"),
            None => format!("SELECT pg_try_advisory_xact_lock({key})::int::bigint"),
        }
    }

    /// The SELECT that acquires the lock takes its snapshot before it waits. At SERIALIZABLE, a read from a
    /// snapshot that is too old fails at the commit.
    fn snapshot_age(_engine: &Engine, plan: &Plan) -> SnapshotAge {
        if plan.isolation == Isolation::RepeatableRead { SnapshotAge::Older } else { SnapshotAge::Younger }
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = true;

    /// Reads the locks that are not granted, and not `pg_stat_activity.wait_event_type`, which is set a
    /// moment later. A session that waits for a row waits for the transaction that holds the row's lock, so
    /// the table is one of those that the waiting session has locked for writing.
    fn lock_wait_query(sessions: &[i64]) -> Option<LockWaitQuery> {
        let sessions = sessions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let written_tables = "SELECT string_agg(DISTINCT held.relation::regclass::text, ', ') \
             FROM pg_locks AS held \
             JOIN pg_class ON pg_class.oid = held.relation AND relkind IN ('r', 'p') \
             WHERE held.pid = waits.pid AND held.mode IN ('RowShareLock', 'RowExclusiveLock')";
        let sql = format!(
            "SELECT concat_ws(' ', pid, '{{' || array_to_string(pg_blocking_pids(pid), ',') || '}}', \
             CASE locktype WHEN 'transactionid' THEN 'a row of ' || coalesce(({written_tables}), '?') \
             WHEN 'tuple' THEN 'a row of ' || relation::regclass::text \
             ELSE concat_ws(' ', locktype, relation::regclass::text) END, '(' || mode || ')') \
             FROM pg_locks AS waits WHERE NOT granted AND pid IN ({sessions})"
        );
        Some(LockWaitQuery { sql, read: lock_wait })
    }
}

/// Reads `42 {17,18} a row of account (ShareLock)`
fn lock_wait(line: &str) -> Vec<LockWait> {
    let read = || {
        let (session, rest) = line.split_once(" {")?;
        let (blocked_by, lock) = rest.split_once("} ")?;
        let blocked_by = blocked_by.split(',').filter_map(|session| session.parse().ok()).collect();
        Some(LockWait { session: session.parse().ok()?, blocked_by, lock: lock.to_owned() })
    };
    read().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{EngineProduct, EngineVersion};
    use crate::sql_text::Syntax;

    #[test]
    fn lock_strengths_that_the_engine_lacks_are_replaced_by_stronger_ones() {
        use EngineProduct::{AuroraDsql, CockroachDb, PostgreSql, Unknown};

        let clause = |product, lock| {
            let engine = Engine::new(Syntax::Postgres, product, EngineVersion::new(25, 1, 0));
            Postgres::clause(&engine, lock)
        };
        assert_eq!(clause(PostgreSql, RowLock::NO_KEY_UPDATE), "FOR NO KEY UPDATE");
        for product in [CockroachDb, AuroraDsql, Unknown] {
            assert_eq!(clause(product, RowLock::NO_KEY_UPDATE), "FOR UPDATE", "{product:?}");
        }
        assert_eq!(clause(CockroachDb, RowLock::KEY_SHARE), "FOR SHARE");
        assert_eq!(clause(AuroraDsql, RowLock::KEY_SHARE), "FOR KEY SHARE");
        assert_eq!(clause(PostgreSql, RowLock::UPDATE.skip_locked()), "FOR UPDATE SKIP LOCKED");
    }

    #[test]
    fn lock_waits_are_read() {
        let wait = LockWait {
            session: 42,
            blocked_by: vec![17, 18],
            lock: String::from("a row of account (ShareLock)"),
        };
        assert_eq!(lock_wait("42 {17,18} a row of account (ShareLock)"), [wait]);
        assert_eq!(lock_wait("something else"), []);
    }
}
