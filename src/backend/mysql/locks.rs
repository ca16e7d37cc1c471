//! InnoDB's locks, user locks, and queries for the sessions that wait for them.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::MySql;

use super::innodb_status::{self, ReportedLock};
use crate::backend::engine::Engine;
use crate::backend::limits::whole_seconds;
use crate::backend::locks::{LockSql, LockWait, LockWaitQuery, SnapshotAge, whole_clause};
use crate::isolation::{Access, Isolation};
use crate::row_lock::{RowLock, Strength, WaitPolicy};
use crate::strategy::Plan;

impl LockSql for MySql {
    /// MariaDB has no `FOR SHARE`: it is a syntax error there. MySQL 8 has it, and requires it for OF, NOWAIT
    /// and SKIP LOCKED.
    fn clause(engine: &Engine, lock: RowLock) -> Cow<'static, str> {
        let needs_new_clause = lock.wait != WaitPolicy::Block || lock.table.is_some();
        let clause = match lock.strength {
            Strength::Update | Strength::NoKeyUpdate => "FOR UPDATE",
            Strength::Share | Strength::KeyShare if needs_new_clause && !engine.is_mariadb() => "FOR SHARE",
            Strength::Share | Strength::KeyShare => "LOCK IN SHARE MODE",
        };
        whole_clause(clause, lock)
    }

    /// The lock belongs to the session; the text that ends the transaction releases it.
    fn advisory_lock(key: u64, wait: Option<Duration>) -> String {
        let seconds = wait.map_or(0, whole_seconds);
        format!("SELECT CAST(GET_LOCK('{}', {seconds}) AS SIGNED)", lock_name(key))
    }

    /// GET_LOCK reads no table, so it takes no snapshot; at SERIALIZABLE every read locks what it reads.
    fn snapshot_age(engine: &Engine, plan: &Plan) -> SnapshotAge {
        match plan.isolation {
            _ if begins_with_snapshot(engine, plan) => SnapshotAge::Older,
            Isolation::RepeatableRead => SnapshotAge::FirstStatement,
            _ => SnapshotAge::Younger,
        }
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = false;

    /// Reads InnoDB's status, because `innodb_trx` is a cached copy that is not refreshed while it is being
    /// read. The status does not show user locks and metadata locks, which the process list does. MySQL's
    /// status also omits a transaction that has only read, even while it waits for a lock; `data_locks` shows
    /// it.
    fn lock_wait_query(_sessions: &[i64]) -> Option<LockWaitQuery> {
        let sql = "SHOW ENGINE INNODB STATUS; \
                   SELECT CONCAT('process ', id, ' ', state) \
                   FROM /*M! information_schema.processlist*/ /*!80022 performance_schema.processlist*/ \
                   WHERE state = 'User lock' OR state LIKE 'Waiting for % lock' \
                   /*!80022 UNION ALL SELECT CONCAT('process ', processlist_id, ' a row of ', \
                   waiting.object_name, ' (', lock_mode, ')') \
                   FROM performance_schema.data_locks AS waiting \
                   JOIN performance_schema.threads USING (thread_id) WHERE lock_status = 'WAITING'*/";
        Some(LockWaitQuery { sql: sql.to_owned(), read: lock_waits })
    }
}

pub(super) fn lock_name(key: u64) -> String {
    format!("atomically:{key:016x}")
}

/// Reads the waits from InnoDB's status, or from a line of the process list.
fn lock_waits(text: &str) -> Vec<LockWait> {
    if let Some(line) = text.strip_prefix("process ") {
        let wait = line.split_once(' ').and_then(|(session, state)| {
            Some(LockWait { session: session.parse().ok()?, blocked_by: Vec::new(), lock: state.to_owned() })
        });
        return wait.into_iter().collect();
    }
    let transactions = text.split("\n---TRANSACTION ").skip(1).filter(|one| one.contains("\nLOCK WAIT "));
    transactions
        .filter_map(|one| {
            let session = one.lines().find_map(innodb_status::session)?;
            let (_, wanted) = one.split_once("FOR THIS LOCK TO BE GRANTED:")?;
            let ReportedLock { on, table, mode, .. } = wanted.lines().find_map(innodb_status::lock)?;
            let what = if on.starts_with("RECORD") { "a row of " } else { "" };
            Some(LockWait { session, blocked_by: Vec::new(), lock: format!("{what}{table} ({mode})") })
        })
        .collect()
}

/// Returns whether the transaction takes its snapshot when it begins, and not with its first read.
///
/// MariaDB collects the open transactions for a snapshot one after the other, while others commit, so a
/// snapshot can contain a transaction without an earlier one for whose row lock it has waited. With the
/// binary log enabled, a [consistent
/// snapshot](https://mariadb.com/kb/en/enhancements-for-start-transaction-with-consistent-snapshot/) excludes
/// commits while it is taken.
pub(super) fn begins_with_snapshot(engine: &Engine, plan: &Plan) -> bool {
    engine.is_mariadb() && plan.isolation == Isolation::RepeatableRead && plan.access == Access::ReadOnly
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{EngineProduct, EngineVersion};
    use crate::sql_text::Syntax;

    #[test]
    fn shared_locks_are_spelled_as_the_product_requires() {
        let clause = |product, lock| {
            let engine = Engine::new(Syntax::MySql, product, EngineVersion::new(11, 8, 0));
            MySql::clause(&engine, lock)
        };
        let (mysql, mariadb) = (EngineProduct::MySql, EngineProduct::MariaDb);
        assert_eq!(clause(mysql, RowLock::SHARE), "LOCK IN SHARE MODE");
        assert_eq!(clause(mariadb, RowLock::SHARE), "LOCK IN SHARE MODE");
        assert_eq!(clause(mysql, RowLock::SHARE.nowait()), "FOR SHARE NOWAIT");
        assert_eq!(clause(mariadb, RowLock::SHARE.nowait()), "LOCK IN SHARE MODE NOWAIT");
        assert_eq!(clause(mysql, RowLock::KEY_SHARE.of("event")), "FOR SHARE OF event");
        assert_eq!(clause(mysql, RowLock::NO_KEY_UPDATE.skip_locked()), "FOR UPDATE SKIP LOCKED");
    }

    /// Reads the status as MariaDB 10.11 and MySQL 9 print it.
    #[test]
    fn lock_waits_are_read_from_status_and_process_list() {
        let status = "
LIST OF TRANSACTIONS FOR EACH SESSION:
---TRANSACTION 423, ACTIVE 0 sec starting index read
mysql tables in use 1, locked 1
LOCK WAIT 2 lock struct(s), heap size 1128, 1 row lock(s)
MariaDB thread id 12, OS thread handle 1, query id 99 localhost root Updating
UPDATE product SET stock = 9 WHERE id = 1
------- TRX HAS BEEN WAITING 0 us FOR THIS LOCK TO BE GRANTED:
RECORD LOCKS space id 5 page no 3 n bits 8 index PRIMARY of table `shop`.`product` trx id 423 \
lock_mode X locks rec but not gap waiting
---TRANSACTION 422, ACTIVE 0 sec
2 lock struct(s), heap size 1128, 1 row lock(s), undo log entries 1
MariaDB thread id 11, OS thread handle 2, query id 98 localhost root
";
        let lock = String::from("a row of product (X locks rec but not gap)");
        assert_eq!(lock_waits(status), [LockWait { session: 12, blocked_by: Vec::new(), lock }]);
        let lock = String::from("User lock");
        assert_eq!(
            lock_waits("process 7 User lock"),
            [LockWait { session: 7, blocked_by: Vec::new(), lock }]
        );
        assert_eq!(lock_waits("something else"), []);
    }
}
