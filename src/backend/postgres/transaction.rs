//! How transactions begin and end.

use std::borrow::Cow;

use sqlx::Postgres;

use super::{limits, local_settings};
use crate::backend::transaction::{
    Closing, CommitSql, GUARD_NAME, Guard, OwnLockTimeout, Survival, TransactionSql,
};
use crate::failure::Failure;
use crate::isolation::{Access, Isolation};
use crate::local_settings::LocalSettings;
use crate::strategy::{Limits, Plan};

/// The size of an opening with all of its settings, so that its text does not grow in steps.
const OPENING_BYTES: usize = 256;

impl TransactionSql for Postgres {
    fn check(plan: &Plan, _limits: &Limits) -> Result<(), Failure> {
        let reads_only = plan.access == Access::ReadOnly;
        if plan.begin.is_some() {
            return Err(Failure::unsupported("PostgreSQL", "deferred, immediate or exclusive transactions"));
        }
        if plan.deferrable && !(reads_only && plan.isolation == Isolation::Serializable) {
            return Err(Failure::unsupported(
                "PostgreSQL",
                "deferrable transactions other than serializable read-only ones",
            ));
        }
        Ok(())
    }

    fn opening(plan: &Plan, limits: &Limits) -> String {
        let reads_only = plan.access == Access::ReadOnly;
        let mut sql = String::with_capacity(OPENING_BYTES);
        sql.push_str("BEGIN ISOLATION LEVEL ");
        sql.push_str(plan.isolation.as_sql());
        if reads_only {
            sql.push_str(" READ ONLY");
        }
        if plan.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        limits::set_in_transaction(&mut sql, limits);
        sql
    }

    fn local_settings(settings: &LocalSettings) -> Result<String, Failure> {
        local_settings::statements(settings)
    }

    fn own_lock_timeout(limits: &Limits, answers: &[String]) -> Option<OwnLockTimeout> {
        limits::own_lock_timeout(limits, answers)
    }

    const IDLE_LIMIT_QUERY: Option<&'static str> = Some("SHOW idle_in_transaction_session_timeout");

    /// 25001: the open transaction has already read, so its isolation level can no longer be set.
    fn found_open_transaction(failure: &Failure) -> bool {
        failure.code() == Some("25001")
    }

    /// A hot standby refuses SERIALIZABLE as an unsupported feature, with a message in the server's
    /// language.
    fn read_only_query(failure: &Failure) -> Option<&'static str> {
        (failure.code() == Some("0A000")).then_some("SELECT pg_is_in_recovery()::int::bigint")
    }

    /// 25P01: no transaction is open. An aborted transaction, which is still open, reports 25P02.
    const GUARD: Guard = Guard {
        sql: "SAVEPOINT atomically_guard",
        has_ended: |failure| failure.is_some_and(|failure| failure.code() == Some("25P01")),
    };

    const EVERY_ERROR_ABORTS: bool = true;

    fn survival(_failure: &Failure) -> Survival {
        Survival::Over
    }

    /// COMMIT returns `ROLLBACK` and no error in an aborted transaction, and a warning outside of one. The
    /// driver exposes neither. SAVEPOINT fails in both cases.
    fn commit(closing: &Closing) -> CommitSql {
        if closing.unwatched {
            let sql = format!("SAVEPOINT {GUARD_NAME}; COMMIT");
            CommitSql { sql: sql.into(), before_commit: 1, ..CommitSql::default() }
        } else {
            CommitSql { sql: "COMMIT".into(), ..CommitSql::default() }
        }
    }

    fn rollback(closing: &Closing) -> Cow<'static, str> {
        match &closing.left {
            Some(name) => format!("ROLLBACK; DEALLOCATE \"{name}\"").into(),
            None => "ROLLBACK".into(),
        }
    }

    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = true;
}
