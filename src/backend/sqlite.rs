//! SQLite.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use sqlx::Sqlite;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::sqlite::{SqliteConnectOptions, SqliteError};

use super::text::names;
use super::{
    Backend, Closing, Driver, Ending, Facts, Guard, Key, LockWaits, Provocation, Sealed, ServerReport,
    Survival, Target, WatchedQuery, add_listed, whole_millis,
};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;
use crate::isolation::{Access, Begin};
use crate::row_lock::RowLock;
use crate::sql_text::{LoneEffect, Statement, Syntax, TransactionEffect};
use crate::strategy::{CommitMarker, Limits, Plan};

mod said;
mod debug;

impl Backend for Sqlite {}
impl Sealed for Sqlite {}

impl Driver for Sqlite {
    /// The driver's worker is a thread. When it panics, on a row of a table that another connection has
    /// altered for example, the statement at hand ends without an error, and without any row.
    const ENDS_SILENTLY: bool = true;

    fn rows_affected(result: &sqlx::sqlite::SqliteQueryResult) -> u64 {
        result.rows_affected()
    }
}

/// `busy_timeout` as sqlx sets it. A transaction with more time than this leaves it alone.
const USUAL_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Facts for Sqlite {
    const SYSTEM: &'static str = "sqlite";

    /// Whoever is going to write says so at once: a deferred transaction that reads first and writes later
    /// fails with SQLITE_BUSY_SNAPSHOT as soon as anybody else has written, whatever the busy timeout.
    fn opening(plan: &Plan, limits: &Limits) -> Result<String, Failure> {
        let missing = |what| Err(Failure::unsupported("SQLite", what));
        if plan.deferrable {
            return missing("deferrable transactions");
        }
        if limits.statement.is_some() {
            return missing("limit for statements");
        }
        if limits.idle.is_some() {
            return missing("limit for the pauses between statements");
        }
        let mut sql = String::new();
        // A pragma without a value answers the one to put back.
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
        Ok(sql)
    }

    fn ask_settings(closing: &Closing) -> Option<String> {
        let questions: Vec<_> = pragmas_to_set(closing).map(|name| format!("PRAGMA {name}")).collect();
        (!questions.is_empty()).then(|| questions.join("; "))
    }

    fn found_open_transaction(failure: &Failure) -> bool {
        failure.message().contains("within a transaction")
    }

    /// Inside of a transaction BEGIN fails.
    const GUARD: Guard = Guard { sql: "BEGIN", has_ended: |failure| failure.is_none() };

    fn commit(closing: &Closing) -> Ending {
        let mut sql = String::from("COMMIT");
        for pragma in pragmas_to_put_back(closing) {
            let _ = write!(sql, "; {pragma}");
        }
        Ending { sql: sql.into(), ..Ending::default() }
    }

    /// ROLLBACK comes last: it fails where SQLite has rolled back by itself.
    fn rollback(closing: &Closing) -> Cow<'static, str> {
        let mut sql = String::new();
        for pragma in pragmas_to_put_back(closing) {
            let _ = write!(sql, "{pragma}; ");
        }
        sql.push_str("ROLLBACK");
        sql.into()
    }

    /// A COMMIT that finds the database busy can be tried again, so SQLite keeps the transaction open.
    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = false;

    fn lock_clause(_lock: RowLock) -> Option<Cow<'static, str>> {
        None
    }

    /// `ON CONFLICT FAIL` of a column, and `INSERT OR FAIL` in a trigger.
    const VIOLATIONS_KEEP_PARTS: bool = true;

    const SYNTAX: Syntax = Syntax::Sqlite;

    /// The driver runs all of them, also with arguments.
    const PREPARES_ONE_STATEMENT: bool = false;

    const TEXT_IS_ONE_TRANSACTION: bool = false;

    fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect {
        statement.savepoint_effect().unwrap_or_else(|| {
            if statement.begins_with_any(&["BEGIN", "START", "COMMIT", "END"]) {
                TransactionEffect::Controls
            } else {
                TransactionEffect::Inside
            }
        })
    }

    /// A savepoint opens a transaction where there is none. `OR FAIL` keeps what was changed before the
    /// failure.
    fn lone_effect(statement: &Statement<'_>) -> LoneEffect {
        if statement.savepoint_effect().is_some()
            || Self::transaction_effect(statement) != TransactionEffect::Inside
        {
            LoneEffect::LeavesSomething
        } else if statement.has_in_a_row(&["OR", "FAIL"]) {
            LoneEffect::InParts
        } else {
            LoneEffect::Whole
        }
    }

    fn placeholder(_number: usize) -> Cow<'static, str> {
        "?".into()
    }

    fn advisory_lock(_key: u64, _wait: Option<Duration>) -> Option<String> {
        None
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = false;

    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BLOB PRIMARY KEY,
        recorded_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) WITHOUT ROWID";

    fn marker(marker: CommitMarker) -> Result<String, Failure> {
        match marker {
            CommitMarker::Operation(id) => {
                Ok(format!("INSERT INTO atomically_operation (id) VALUES (x'{id:032x}')"))
            }
            CommitMarker::TransactionStatus => {
                Err(Failure::unsupported("SQLite", "memory of transactions that have ended"))
            }
        }
    }

    fn purge_operations(older_than: Duration) -> String {
        format!(
            "DELETE FROM atomically_operation WHERE id IN (SELECT id FROM atomically_operation \
             WHERE recorded_at < unixepoch() - {} LIMIT 1000)",
            older_than.as_secs()
        )
    }

    const SESSION: Option<&'static str> = None;

    fn lock_waits(_sessions: &[i64]) -> Option<LockWaits> {
        None
    }

    fn provoke(fault: Fault) -> Option<Provocation> {
        match fault {
            Fault::SerializationFailure => Some(Provocation::Pretend(FailureKind::SerializationFailure)),
            Fault::Deadlock | Fault::LockTimeout => Some(Provocation::Pretend(FailureKind::Busy)),
            Fault::ConnectionLost | Fault::AnswerLost => None,
        }
    }

    fn shown_arguments(arguments: &str) -> Option<Vec<String>> {
        debug::arguments(arguments)
    }

    const INTEGER: &'static str = "INTEGER";

    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, BoxDynError> {
        add_listed(target, changes)
    }

    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>> {
        let sqlite = error.try_downcast_ref::<SqliteError>()?;
        let number = error.code()?.parse().ok()?;
        Some(ServerReport { number, message: DatabaseError::message(sqlite), ..ServerReport::default() })
    }

    /// Extended result codes after [SQLite's list](https://www.sqlite.org/rescode.html): the low byte is the
    /// primary code.
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable, definite) = match (report.number, report.number & 0xff) {
            // SQLITE_BUSY_SNAPSHOT, SQLITE_ERROR_SNAPSHOT: only a new transaction helps.
            (517 | 769, _) => (Kind::SerializationFailure, true, true),
            // Connections that share a cache wait for each other, and SQLite has found a circle.
            (6, _) if report.message.contains("deadlocked") => (Kind::Deadlock, true, true),
            // SQLITE_LOCKED is otherwise a conflict inside one connection, which no waiting resolves.
            (6, _) => (Kind::Busy, false, true),
            // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL
            (_, 5 | 6 | 15) => (Kind::Busy, true, true),
            (2067 | 1555 | 2579, _) => return violation(report, Unique),
            (787, _) => return violation(report, ForeignKey),
            (1299, _) => return violation(report, NotNull),
            (275 | 3091, _) => return violation(report, Check),
            // SQLITE_CONSTRAINT_COMMITHOOK, SQLITE_ABORT_ROLLBACK
            (531 | 516, _) => (Kind::Aborted, false, true),
            (1, _) if ends_unseen(report.message) => (Kind::Aborted, false, true),
            // SQLITE_INTERRUPT
            (_, 9) => (Kind::StatementTimeout, false, false),
            // SQLITE_NOMEM, SQLITE_IOERR_NOMEM, SQLITE_CANTOPEN
            (_, 7 | 14) | (3082, _) => (Kind::Unavailable, true, false),
            (_, 8) => (Kind::ReadOnly, false, true),
            // SQLITE_SCHEMA, SQLITE_ERROR_RETRY
            (_, 17) | (513, _) => (Kind::Other, true, true),
            // SQLITE_ERROR, other constraints
            (_, 1 | 19) => (Kind::Other, false, true),
            _ => (Kind::Other, false, false),
        };
        Failure::new(kind, said::said(report))
            .with_code(report.number.to_string())
            .retryable(retryable)
            .definite(definite)
    }

    /// `INSERT OR ROLLBACK`, a full disk and the like end the transaction, and later statements commit by
    /// themselves. Only a second BEGIN tells: inside a transaction it fails.
    fn after(failure: &Failure) -> Survival {
        match failure.kind() {
            FailureKind::Constraint | FailureKind::Other => Survival::Ask("BEGIN"),
            _ => Survival::Over,
        }
    }

    fn address(options: &SqliteConnectOptions) -> String {
        options.get_filename().display().to_string()
    }

    fn lives_in_its_connection(options: &SqliteConnectOptions) -> bool {
        // There is no getter, and `to_url_lossy` panics on some of these.
        let name = options.get_filename().as_os_str();
        name.is_empty() || name == ":memory:" || format!("{options:?}").contains("in_memory: true")
    }
}

/// The busy timeout to set, where the usual one does not do.
fn busy_timeout(limits: &Limits) -> Option<Duration> {
    limits.on_locks().filter(|limit| limits.lock.is_some() || *limit < USUAL_BUSY_TIMEOUT)
}

/// In the order in which the opening asked for them.
fn pragmas_to_set(closing: &Closing) -> impl Iterator<Item = &'static str> + use<> {
    let read_only = (closing.plan.access == Access::ReadOnly).then_some("query_only");
    let limited = busy_timeout(&closing.limits).map(|_| "busy_timeout");
    read_only.into_iter().chain(limited)
}

fn pragmas_to_put_back(closing: &Closing) -> impl Iterator<Item = String> {
    let values = closing.saved.clone();
    pragmas_to_set(closing).zip(values).map(|(name, value)| format!("PRAGMA {name} = {value}"))
}

fn ends_unseen(message: &str) -> bool {
    message.contains("no transaction is active") || message.contains("no such savepoint")
}

fn violation(report: &ServerReport<'_>, kind: ConstraintKind) -> Failure {
    let mut constraint = Constraint::new(kind);
    // "UNIQUE constraint failed: t.a, t.b", "NOT NULL constraint failed: t.a", "CHECK constraint failed:
    // name"
    let subject = report.message.split_once("constraint failed: ").map(|(_, subject)| subject);
    match (kind, subject) {
        (ConstraintKind::Unique | ConstraintKind::NotNull, Some(list)) => {
            for name in names(list) {
                match name.split_once('.') {
                    Some((table, column)) => {
                        constraint.table = Some(table.to_owned());
                        constraint.columns.push(column.to_owned());
                    }
                    // "index 'name'", for an index on an expression
                    None => constraint.name = Some(name.trim_start_matches("index '").to_owned()),
                }
            }
        }
        (ConstraintKind::Check, Some(name)) => constraint.name = Some(name.to_owned()),
        _ => {}
    }
    Failure::new(FailureKind::Constraint, said::said(report))
        .with_code(report.number.to_string())
        .with_constraint(Some(constraint))
}
