//! The texts that open and end a transaction.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use super::lock_name;
use crate::backend::{Closing, Ending, Engine, GUARD, MAX_SECONDS, whole_millis, whole_seconds};
use crate::failure::Failure;
use crate::isolation::Access;
use crate::strategy::{Limits, Plan};

/// Fails if the savepoint that was set at the opening is gone.
pub(super) const GUARD_HOLDS: &str = "RELEASE SAVEPOINT atomically_guard";

/// `completion_type` would have the server begin another transaction behind each, or close the connection.
pub(super) const COMMIT: &str = "COMMIT AND NO CHAIN NO RELEASE";
const ROLLBACK: &str = "ROLLBACK AND NO CHAIN NO RELEASE";

/// One text: sent in two, a level that is never followed by its START TRANSACTION would be the next
/// borrower's.
///
/// The limits are the session's, so they are saved and put back. InnoDB's is for rows, the other one for
/// definitions of tables, which a statement waits for while it is prepared: behind an ALTER that waits for a
/// reader, say. `/*M! */` is read by MariaDB alone, and `/*!50708 */` by MySQL alone: MariaDB skips the
/// numbers from 50700 to 50799 ([comment syntax](https://mariadb.com/kb/en/comment-syntax/)).
pub(super) fn opening(plan: &Plan, limits: &Limits) -> Result<String, Failure> {
    if plan.begin.is_some() {
        return Err(Failure::unsupported("MySQL", "deferred, immediate or exclusive transactions"));
    }
    if plan.deferrable {
        return Err(Failure::unsupported("MySQL", "deferrable transactions"));
    }
    let mut sql = String::new();
    if let Some(limit) = limits.on_locks() {
        let is_asked_for = limits.lock == Some(limit);
        // Rounded down, where the deadline is the limit: the answer comes before the client gives up, and
        // leaves no session waiting on the server.
        let tables = if is_asked_for { whole_seconds(limit) } else { limit.as_secs().clamp(1, MAX_SECONDS) };
        let rows = if is_asked_for { tables } else { seconds_below(limit) };
        let [rows, tables] =
            [("innodb_lock_wait_timeout", rows), ("lock_wait_timeout", tables)].map(|(setting, seconds)| {
                match is_asked_for {
                    true => seconds.to_string(),
                    // A shorter limit of the session's own stays. MySQL takes no expression here.
                    false => format!("/*M! LEAST(@@{setting},*/ {seconds} /*M! )*/"),
                }
            });
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
        // MySQL does not know the variable, and says so.
        let seconds = whole_seconds(limit);
        let _ = write!(
            sql,
            "SET @atomically_idle = @@idle_transaction_timeout, idle_transaction_timeout = {seconds}; "
        );
    }
    let access = if plan.access == Access::ReadOnly { ", READ ONLY" } else { "" };
    let _ = write!(
        sql,
        "SET TRANSACTION ISOLATION LEVEL {}{access}; START TRANSACTION; SAVEPOINT {GUARD}",
        plan.isolation
    );
    Ok(sql)
}

/// On a Galera cluster the guard and COMMIT must not share a packet with anything: see
/// [`Engine::is_galera`](super::Engine::is_galera). To MariaDB a compound statement is one, in one packet;
/// what it selects before COMMIT shows, should it fail, whether the guard had held.
pub(super) fn commit(closing: &Closing) -> Ending {
    let (guard, put_back) = (GUARD_HOLDS, putting_back(closing));
    match closing.engine {
        Engine { is_galera: false, .. } => Ending {
            sql: format!("{guard}; {COMMIT}{put_back}").into(),
            before_commit: 1,
            ..Ending::default()
        },
        Engine { is_galera: true, is_mariadb: true, .. } => {
            let sql = format!("BEGIN NOT ATOMIC {guard}; SELECT 1; {COMMIT}{put_back}; END");
            Ending { sql: sql.into(), before_commit: 1, ..Ending::default() }
        }
        Engine { is_galera: true, is_mariadb: false, .. } => Ending {
            guard: Some(guard.into()),
            sql: COMMIT.into(),
            before_commit: 0,
            after: put_back.strip_prefix("; ").map(|settings| settings.to_owned().into()),
        },
    }
}

pub(super) fn rollback(closing: &Closing) -> Cow<'static, str> {
    format!("{ROLLBACK}{}", putting_back(closing)).into()
}

fn putting_back(closing: &Closing) -> String {
    let limits = &closing.limits;
    let mut sql = String::new();
    for key in &closing.advisory_locks {
        let _ = write!(sql, "; DO RELEASE_LOCK('{}')", lock_name(*key));
    }
    if limits.on_locks().is_some() {
        sql.push_str(
            "; SET innodb_lock_wait_timeout = @atomically_lock_wait, lock_wait_timeout = @atomically_table_wait",
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
    sql
}

/// The whole seconds below the limit that the deadline sets, so that a wait for a row is reported as one,
/// before the statement's own limit ends it; or above it, where rounding down would give up a good part of
/// the time. A transaction that waits again stands at the end of the queue.
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
    use crate::isolation::Isolation;

    const RELEASE: &str = "RELEASE SAVEPOINT atomically_guard";
    const SETTINGS: &str =
        "SET innodb_lock_wait_timeout = @atomically_lock_wait, lock_wait_timeout = @atomically_table_wait";

    fn closing(is_mariadb: bool, is_galera: bool) -> Closing {
        let limits = Limits { lock: Some(Duration::from_secs(2)), ..Limits::default() };
        Closing::new(
            Engine { is_mariadb, is_galera, ..Engine::default() },
            Plan::new(Isolation::ReadCommitted),
            limits,
        )
    }

    #[test]
    fn a_server_of_its_own_commits_in_one_packet() {
        for is_mariadb in [true, false] {
            let ending = commit(&closing(is_mariadb, false));
            assert_eq!(ending.sql, format!("{RELEASE}; {COMMIT}; {SETTINGS}"));
            assert_eq!((ending.before_commit, ending.guard, ending.after), (1, None, None));
        }
    }

    #[test]
    fn a_node_of_mariadb_commits_in_one_compound_statement() {
        let ending = commit(&closing(true, true));
        assert_eq!(ending.sql, format!("BEGIN NOT ATOMIC {RELEASE}; SELECT 1; {COMMIT}; {SETTINGS}; END"));
        assert_eq!((ending.before_commit, ending.guard, ending.after), (1, None, None));
    }

    #[test]
    fn a_node_of_another_product_gets_each_statement_in_a_packet_of_its_own() {
        let ending = commit(&closing(false, true));
        assert_eq!((ending.sql.as_ref(), ending.before_commit), (COMMIT, 0));
        assert_eq!((ending.guard.as_deref(), ending.after.as_deref()), (Some(RELEASE), Some(SETTINGS)));
    }

    #[test]
    fn a_wait_for_a_row_ends_before_its_statement_where_seconds_allow() {
        for (millis, seconds) in [(9_900, 9), (4_400, 4), (2_050, 2), (1_900, 2), (900, 1), (10, 1)] {
            assert_eq!(seconds_below(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
        assert_eq!(seconds_below(Duration::from_secs(u32::MAX.into())), MAX_SECONDS);
    }
}
