//! How transactions begin and end.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use sqlx::MySql;

use super::locks::{begins_with_snapshot, lock_name};
use crate::backend::engine::{Engine, EngineProduct};
use crate::backend::limits::{MAX_SECONDS, whole_millis, whole_seconds};
use crate::backend::transaction::{
    Closing, CommitSql, GUARD_NAME, Guard, ProbeSavepoint, Survival, TransactionSql,
};
use crate::failure::{Failure, FailureKind};
use crate::isolation::{Access, Isolation};
use crate::strategy::{Limits, Plan};

/// Fails if the savepoint that was set at the opening is gone.
const RELEASE_GUARD: &str = "RELEASE SAVEPOINT atomically_guard";

/// The COMMIT to send. Depending on `completion_type`, a plain COMMIT would begin another transaction or
/// close the connection.
pub(super) const COMMIT: &str = "COMMIT AND NO CHAIN NO RELEASE";
const ROLLBACK: &str = "ROLLBACK AND NO CHAIN NO RELEASE";

/// Makes what is sent after the end of a transaction a transaction of its own, which is not stored without a
/// COMMIT.
///
/// A Galera node rolls a transaction back in favor of one on another node, and reports it with its next
/// response. The report can be lost while a statement is being prepared, and the next statement would be
/// stored alone.
const WITHOUT_AUTOCOMMIT: &str = "SET @atomically_autocommit = @@autocommit, autocommit = 0; ";

impl TransactionSql for MySql {
    fn check(plan: &Plan, _limits: &Limits) -> Result<(), Failure> {
        if plan.begin.is_some() {
            return Err(Failure::unsupported("MySQL", "deferred, immediate or exclusive transactions"));
        }
        if plan.deferrable {
            return Err(Failure::unsupported("MySQL", "deferrable transactions"));
        }
        Ok(())
    }

    /// The level and START TRANSACTION are one text. If they were sent separately and the second one were
    /// never sent, the level would apply to the next transaction on the connection.
    ///
    /// The limits are settings of the session, so they are saved here and restored at the end. One limits
    /// waits for rows. The other limits waits for table definitions, which happen while a statement is
    /// prepared, for example behind an ALTER that waits for a reader. `/*M! */` is executed by MariaDB only,
    /// and `/*!50708 */` by MySQL only, since MariaDB skips the numbers from 50700 to 50799 ([comment
    /// syntax](https://mariadb.com/kb/en/comment-syntax/)).
    fn opening(engine: &Engine, plan: &Plan, limits: &Limits) -> String {
        let mut sql = String::new();
        if let Some(limit) = limits.on_locks() {
            let is_requested = limits.lock == Some(limit);
            // Rounded down if the deadline is the limit, so that the server reports the timeout before the
            // client gives up and leaves a waiting session behind.
            let tables =
                if is_requested { whole_seconds(limit) } else { limit.as_secs().clamp(1, MAX_SECONDS) };
            let rows = if is_requested { tables } else { seconds_below(limit) };
            let [rows, tables] = [("innodb_lock_wait_timeout", rows), ("lock_wait_timeout", tables)].map(
                |(setting, seconds)| {
                    match is_requested {
                        true => seconds.to_string(),
                        // The session's own limit stays if it is shorter. MySQL accepts no expression here.
                        false => format!("/*M! LEAST(@@{setting},*/ {seconds} /*M! )*/"),
                    }
                },
            );
            let _ = write!(
                sql,
                "SET @atomically_lock_wait = @@innodb_lock_wait_timeout, innodb_lock_wait_timeout = {rows}, \
                 @atomically_table_wait = @@lock_wait_timeout, lock_wait_timeout = {tables}; "
            );
        }
        if let Some(limit) = limits.on_statements() {
            let millis = whole_millis(limit);
            let _ = write!(
                sql,
                "SET @atomically_limited = 1\
                 /*M! , @atomically_statement = @@max_statement_time, max_statement_time = {millis} / 1000*/\
                 /*!50708 , @atomically_statement = @@max_execution_time, max_execution_time = {millis}*/; "
            );
        }
        if let Some(limit) = limits.idle {
            // MySQL does not have this variable, and reports it as unknown.
            let seconds = whole_seconds(limit);
            let _ = write!(
                sql,
                "SET @atomically_idle = @@idle_transaction_timeout, idle_transaction_timeout = {seconds}; "
            );
        }
        if engine.is_galera() {
            sql.push_str(WITHOUT_AUTOCOMMIT);
        }
        let access = if plan.access == Access::ReadOnly { ", READ ONLY" } else { "" };
        let isolation = match plan.isolation {
            // TiDB refuses it.
            Isolation::ReadUncommitted if engine.product == EngineProduct::TiDb => Isolation::ReadCommitted,
            isolation => isolation,
        };
        let snapshot = if begins_with_snapshot(engine, plan) { " WITH CONSISTENT SNAPSHOT" } else { "" };
        let _ = write!(
            sql,
            "SET TRANSACTION ISOLATION LEVEL {isolation}{access}; START TRANSACTION{snapshot}; \
             SAVEPOINT {GUARD_NAME}"
        );
        sql
    }

    /// 1568: `SET TRANSACTION` is refused while a transaction is open. With `autocommit = 0`, any SELECT
    /// opens one.
    fn found_open_transaction(failure: &Failure) -> bool {
        failure.code() == Some("1568")
    }

    /// A node that is not a member of its Galera cluster refuses START TRANSACTION, but not a SELECT without
    /// a table.
    const READ_ONLY_QUERY: Option<&'static str> =
        Some("START TRANSACTION; SELECT CAST(@@global.read_only AS SIGNED); ROLLBACK");

    /// A procedure can commit, and begin another transaction.
    const PROBE: Option<ProbeSavepoint> = Some(ProbeSavepoint {
        set: "SAVEPOINT atomically_probe",
        release: "RELEASE SAVEPOINT atomically_probe",
        reset: "SAVEPOINT atomically_guard",
    });

    /// DDL and procedures commit implicitly, and the session silently continues in autocommit: afterwards
    /// the savepoint that was set at the opening cannot be released.
    const GUARD: Guard = Guard {
        sql: RELEASE_GUARD,
        has_ended: |failure| failure.is_some_and(|failure| failure.kind() == FailureKind::Aborted),
    };

    /// [InnoDB](https://dev.mysql.com/doc/refman/8.4/en/innodb-error-handling.html) rolls back the whole
    /// transaction of a deadlock's victim, savepoints included.
    fn rolls_back_everything(failure: &Failure) -> bool {
        matches!(failure.kind(), FailureKind::Deadlock | FailureKind::SerializationFailure)
    }

    /// InnoDB rolls back either the statement or the transaction; which one depends on the error and, after
    /// a lock wait, on the server's configuration.
    fn survival(failure: &Failure) -> Survival {
        match failure.kind() {
            _ if failure.ends_session() => Survival::Over,
            FailureKind::Constraint | FailureKind::Unsupported | FailureKind::Other => Survival::Open,
            _ => Survival::Over,
        }
    }

    /// On a Galera cluster the guard and COMMIT each need a packet of their own: see
    /// [`Galera`](crate::EngineCluster::Galera). On MariaDB a compound statement is one statement, in one
    /// packet; if it fails, the result of the SELECT shows that the guard existed.
    fn commit(closing: &Closing) -> CommitSql {
        let (guard, restore) = (RELEASE_GUARD, restoring(closing));
        match (closing.engine.is_galera(), closing.engine.is_mariadb()) {
            (false, _) => CommitSql {
                sql: format!("{guard}; {COMMIT}{restore}").into(),
                before_commit: 1,
                ..CommitSql::default()
            },
            (true, true) => {
                let sql = format!("BEGIN NOT ATOMIC {guard}; SELECT 1; {COMMIT}{restore}; END");
                CommitSql { sql: sql.into(), before_commit: 1, ..CommitSql::default() }
            }
            (true, false) => CommitSql {
                guard: Some(guard.into()),
                sql: COMMIT.into(),
                before_commit: 0,
                after: restore.strip_prefix("; ").map(|settings| settings.to_owned().into()),
            },
        }
    }

    fn rollback(closing: &Closing) -> Cow<'static, str> {
        format!("{ROLLBACK}{}", restoring(closing)).into()
    }

    const SAVEPOINTS_REPLACE_EACH_OTHER: bool = true;

    /// The savepoint is not released, because that would need a packet of its own. The next savepoint with
    /// its name replaces it.
    fn rollback_to(savepoint: &str) -> String {
        format!("ROLLBACK TO SAVEPOINT {savepoint}")
    }

    /// Statements that commit are refused, unless the transaction does not see them.
    fn unreported_abort(closing: &Closing) -> Option<Failure> {
        let message = "the node has rolled the transaction back in favor of one on another node, and did not \
                       report it";
        let is_certain = closing.engine.is_galera() && !closing.unwatched;
        is_certain.then(|| Failure::new(FailureKind::SerializationFailure, message).retryable(true))
    }

    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = false;
}

/// Returns the statements, each after a semicolon, that release advisory locks and restore the session's
/// settings.
fn restoring(closing: &Closing) -> String {
    let limits = &closing.limits;
    let mut sql = String::new();
    for key in &closing.advisory_locks {
        let _ = write!(sql, "; DO RELEASE_LOCK('{}')", lock_name(*key));
    }
    if limits.on_locks().is_some() {
        sql.push_str(
            "; SET innodb_lock_wait_timeout = @atomically_lock_wait, \
             lock_wait_timeout = @atomically_table_wait",
        );
    }
    if limits.on_statements().is_some() {
        sql.push_str(
            "; SET @atomically_limited = 0\
             /*M! , max_statement_time = @atomically_statement*/\
             /*!50708 , max_execution_time = @atomically_statement*/",
        );
    }
    if limits.idle.is_some() {
        sql.push_str("; SET idle_transaction_timeout = @atomically_idle");
    }
    if closing.engine.is_galera() {
        // After the end of the transaction, because it would commit one that is open.
        sql.push_str("; SET autocommit = @atomically_autocommit");
    }
    sql
}

/// Rounds the limit that the deadline sets down to seconds, so that a lock timeout ends the wait for a row
/// before the limit of the statement does. Rounds up if rounding down would lose more than a quarter of the
/// time, because a transaction that retries waits at the end of the queue again.
fn seconds_below(limit: Duration) -> u64 {
    let below = limit.as_secs().clamp(1, MAX_SECONDS);
    if below as f64 >= limit.as_secs_f64() * 0.75 || below == MAX_SECONDS {
        below
    } else {
        whole_seconds(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{EngineCluster, EngineVersion};
    use crate::sql_text::Syntax;

    const RELEASE: &str = "RELEASE SAVEPOINT atomically_guard";
    const AUTOCOMMIT: &str = "SET autocommit = @atomically_autocommit";
    const SETTINGS: &str =
        "SET innodb_lock_wait_timeout = @atomically_lock_wait, lock_wait_timeout = @atomically_table_wait";

    fn closing(is_mariadb: bool, is_galera: bool) -> Closing {
        let limits = Limits { lock: Some(Duration::from_secs(2)), ..Limits::default() };
        let product = if is_mariadb { EngineProduct::MariaDb } else { EngineProduct::MySql };
        let engine = Engine::new(Syntax::MySql, product, EngineVersion::new(10, 11, 14));
        let cluster = is_galera.then_some(EngineCluster::Galera);
        Closing::new(Engine { cluster, ..engine }, Plan::new(Isolation::ReadCommitted), limits)
    }

    #[test]
    fn a_single_server_commits_in_one_packet() {
        for is_mariadb in [true, false] {
            let ending = MySql::commit(&closing(is_mariadb, false));
            assert_eq!(ending.sql, format!("{RELEASE}; {COMMIT}; {SETTINGS}"));
            assert_eq!((ending.before_commit, ending.guard, ending.after), (1, None, None));
        }
    }

    #[test]
    fn a_galera_node_of_mariadb_commits_in_one_compound_statement() {
        let ending = MySql::commit(&closing(true, true));
        assert_eq!(
            ending.sql,
            format!("BEGIN NOT ATOMIC {RELEASE}; SELECT 1; {COMMIT}; {SETTINGS}; {AUTOCOMMIT}; END")
        );
        assert_eq!((ending.before_commit, ending.guard, ending.after), (1, None, None));
    }

    #[test]
    fn another_galera_node_receives_each_statement_in_a_packet_of_its_own() {
        let ending = MySql::commit(&closing(false, true));
        assert_eq!((ending.sql.as_ref(), ending.before_commit), (COMMIT, 0));
        let after = format!("{SETTINGS}; {AUTOCOMMIT}");
        assert_eq!((ending.guard.as_deref(), ending.after.as_deref()), (Some(RELEASE), Some(after.as_str())));
    }

    #[test]
    fn autocommit_is_off_in_transactions_of_a_galera_node_and_restored_after_them() {
        for is_galera in [true, false] {
            let closing = closing(true, is_galera);
            let opening = MySql::opening(&closing.engine, &closing.plan, &closing.limits);
            assert_eq!(opening.contains("autocommit = 0; SET TRANSACTION"), is_galera, "{opening}");
            let rollback = MySql::rollback(&closing);
            assert_eq!(
                rollback.ends_with("SET autocommit = @atomically_autocommit"),
                is_galera,
                "{rollback}"
            );
            assert_eq!(MySql::unreported_abort(&closing).is_some(), is_galera);
            assert!(MySql::unreported_abort(&Closing { unwatched: true, ..closing }).is_none());
        }
    }

    #[test]
    fn a_row_wait_times_out_before_its_statement_if_whole_seconds_allow() {
        for (millis, seconds) in [(9_900, 9), (4_400, 4), (2_050, 2), (1_900, 2), (900, 1), (10, 1)] {
            assert_eq!(seconds_below(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
        assert_eq!(seconds_below(Duration::from_secs(u32::MAX.into())), MAX_SECONDS);
    }

    #[test]
    fn a_transaction_is_opened_as_the_engine_allows() {
        let opening = |product, isolation| {
            let engine = Engine::new(Syntax::MySql, product, EngineVersion::new(8, 5, 1));
            let limits = Limits { left: Some(Duration::from_secs(10)), ..Limits::default() };
            MySql::opening(&engine, &Plan::new(isolation), &engine.limits(limits))
        };
        let begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION; \
                     SAVEPOINT atomically_guard";
        for product in [EngineProduct::Vitess, EngineProduct::Unknown] {
            assert_eq!(opening(product, Isolation::ReadCommitted), begin, "{product:?}");
        }
        let on_tidb = opening(EngineProduct::TiDb, Isolation::ReadUncommitted);
        assert!(on_tidb.ends_with(begin) && on_tidb.contains("innodb_lock_wait_timeout"), "{on_tidb}");
        let on_mysql = opening(EngineProduct::MySql, Isolation::ReadUncommitted);
        assert!(on_mysql.contains("READ UNCOMMITTED"), "{on_mysql}");
    }

    #[test]
    fn a_report_on_mariadb_takes_its_snapshot_when_it_begins() {
        let of = |product, isolation, access| {
            let engine = Engine::new(Syntax::MySql, product, EngineVersion::new(10, 11, 14));
            let mut plan = Plan::new(isolation);
            plan.access = access;
            MySql::opening(&engine, &plan, &Limits::default()).contains("START TRANSACTION WITH CONSISTENT")
        };
        let (level, reads) = (Isolation::RepeatableRead, Access::ReadOnly);
        assert!(of(EngineProduct::MariaDb, level, reads));
        assert!(!of(EngineProduct::MariaDb, level, Access::ReadWrite));
        assert!(!of(EngineProduct::MariaDb, Isolation::ReadCommitted, reads));
        assert!(!of(EngineProduct::MySql, level, reads));
    }
}
