//! Errors of SQLite.

use sqlx::Sqlite;
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use super::messages::redacted;
use crate::backend::errors::{ErrorReports, Provocation, ServerReport};
use crate::backend::messages::names;
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;

impl ErrorReports for Sqlite {
    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>> {
        let sqlite = error.try_downcast_ref::<SqliteError>()?;
        let number = error.code()?.parse().ok()?;
        Some(ServerReport { number, message: DatabaseError::message(sqlite), ..ServerReport::default() })
    }

    /// The extended result codes are in [SQLite's list](https://www.sqlite.org/rescode.html); the low byte
    /// is the primary code.
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable, definite) = match (report.number, report.number & 0xff) {
            // SQLITE_BUSY_SNAPSHOT, SQLITE_ERROR_SNAPSHOT: only a new transaction helps.
            (517 | 769, _) => (Kind::SerializationFailure, true, true),
            // Connections that share a cache wait for each other in a cycle.
            (6, _) if report.message.contains("deadlocked") => (Kind::Deadlock, true, true),
            // SQLITE_LOCKED is otherwise a conflict within one connection, which waiting cannot resolve.
            (6, _) => (Kind::Busy, false, true),
            // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL
            (_, 5 | 6 | 15) => (Kind::Busy, true, true),
            (2067 | 1555 | 2579, _) => return violation(report, Unique),
            (787, _) => return violation(report, ForeignKey),
            (1299, _) => return violation(report, NotNull),
            (275 | 3091, _) => return violation(report, Check),
            // SQLITE_CONSTRAINT_COMMITHOOK, SQLITE_ABORT_ROLLBACK
            (531 | 516, _) => (Kind::Aborted, false, true),
            (1, _) if has_no_transaction(report.message) => (Kind::Aborted, false, true),
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
        Failure::new(kind, redacted(report))
            .with_code(report.number.to_string())
            .retryable(retryable)
            .definite(definite)
    }

    fn provoke(fault: Fault) -> Option<Provocation> {
        match fault {
            Fault::SerializationFailure => Some(Provocation::Pretend(FailureKind::SerializationFailure)),
            Fault::Deadlock | Fault::LockTimeout => Some(Provocation::Pretend(FailureKind::Busy)),
            Fault::ConnectionLost | Fault::AnswerLost => None,
        }
    }
}

/// Whether an error is about a transaction or savepoint that is gone.
fn has_no_transaction(message: &str) -> bool {
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
    Failure::new(FailureKind::Constraint, redacted(report))
        .with_code(report.number.to_string())
        .with_constraint(Some(constraint))
}
