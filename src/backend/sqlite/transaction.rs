//! How transactions begin and end.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use sqlx::Sqlite;

use crate::backend::engine::Engine;
use crate::backend::limits::whole_millis;
use crate::backend::transaction::{Closing, CommitSql, Guard, Survival, TransactionSql};
use crate::failure::{Failure, FailureKind};
use crate::isolation::{Access, Begin};
use crate::strategy::{Limits, Plan};

/// The `busy_timeout` that sqlx sets. A transaction with more time than this keeps it.
pub(super) const USUAL_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl TransactionSql for Sqlite {
    fn check(plan: &Plan, limits: &Limits) -> Result<(), Failure> {
        let missing = |what| Err(Failure::unsupported("SQLite", what));
        if plan.deferrable {
            return missing("deferrable transactions");
        }
        if limits.statement.is_some() {
            return missing("statement timeout");
        }
        if limits.idle.is_some() {
            return missing("idle timeout for transactions");
        }
        Ok(())
    }

    /// A transaction that will write acquires the write lock when it begins. A deferred transaction that
    /// reads first fails with SQLITE_BUSY_SNAPSHOT if another one has written since, whatever the busy
    /// timeout.
    fn opening(_engine: &Engine, plan: &Plan, limits: &Limits) -> String {
        let mut sql = String::new();
        // A pragma without a value returns the one to restore.
        if plan.access == Access::ReadOnly {
            sql.push_str("PRAGMA query_only; PRAGMA query_only = 1; ");
        }
        if let Some(limit) = busy_timeout(limits) {
            let _ = write!(sql, "PRAGMA busy_timeout; PRAGMA busy_timeout = {}; ", whole_millis(limit));
        }
        let writes = plan.row_lock.is_some() && plan.access == Access::ReadWrite;
        sql.push_str(match plan.begin {
            Some(Begin::Exclusive) => "BEGIN EXCLUSIVE",
            Some(Begin::Immediate) => "BEGIN IMMEDIATE",
            None if writes => "BEGIN IMMEDIATE",
            Some(Begin::Deferred) | None => "BEGIN",
        });
        sql
    }

    fn settings_query(closing: &Closing) -> Option<String> {
        let queries: Vec<_> = pragmas_to_set(closing).map(|name| format!("PRAGMA {name}")).collect();
        (!queries.is_empty()).then(|| queries.join("; "))
    }

    fn found_open_transaction(failure: &Failure) -> bool {
        failure.message().contains("within a transaction")
    }

    /// Within a transaction BEGIN fails.
    const GUARD: Guard = Guard { sql: "BEGIN", has_ended: |failure| failure.is_none() };

    /// `INSERT OR ROLLBACK`, a full disk and the like end the transaction, and later statements would
    /// commit by themselves. Only a second BEGIN, which fails within a transaction, detects it.
    fn survival(failure: &Failure) -> Survival {
        match failure.kind() {
            FailureKind::Constraint | FailureKind::Other => Survival::Ask("BEGIN"),
            _ => Survival::Over,
        }
    }

    fn commit(closing: &Closing) -> CommitSql {
        let mut sql = String::from("COMMIT");
        for pragma in pragmas_to_restore(closing) {
            let _ = write!(sql, "; {pragma}");
        }
        CommitSql { sql: sql.into(), ..CommitSql::default() }
    }

    /// ROLLBACK comes last because it fails if SQLite has already rolled back.
    fn rollback(closing: &Closing) -> Cow<'static, str> {
        let mut sql = String::new();
        for pragma in pragmas_to_restore(closing) {
            let _ = write!(sql, "{pragma}; ");
        }
        sql.push_str("ROLLBACK");
        sql.into()
    }

    /// SQLite keeps the transaction open if COMMIT finds the database busy, because COMMIT can be repeated.
    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = false;
}

/// The busy timeout to set, if the usual one is not suitable.
fn busy_timeout(limits: &Limits) -> Option<Duration> {
    limits.on_locks().filter(|limit| limits.lock.is_some() || *limit < USUAL_BUSY_TIMEOUT)
}

/// The pragmas that the opening sets, in its order.
fn pragmas_to_set(closing: &Closing) -> impl Iterator<Item = &'static str> + use<> {
    let read_only = (closing.plan.access == Access::ReadOnly).then_some("query_only");
    let limited = busy_timeout(&closing.limits).map(|_| "busy_timeout");
    read_only.into_iter().chain(limited)
}

fn pragmas_to_restore(closing: &Closing) -> impl Iterator<Item = String> {
    let values = closing.saved.clone();
    pragmas_to_set(closing).zip(values).map(|(name, value)| format!("PRAGMA {name} = {value}"))
}
