//! Errors of PostgreSQL, CockroachDB and Aurora DSQL.

use sqlx::Postgres;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::deadlock;
use super::messages::redacted;
use crate::backend::errors::{ErrorReports, Provocation, ServerReport};
use crate::backend::messages::{between, names};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;

impl ErrorReports for Postgres {
    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>> {
        let error = error.try_downcast_ref::<PgDatabaseError>()?;
        Some(ServerReport {
            sqlstate: error.code(),
            message: error.message(),
            fatal: matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic),
            constraint: error.constraint(),
            table: error.table(),
            column: error.column(),
            detail: error.detail(),
            context: error.r#where(),
            routine: error.routine(),
            ..ServerReport::default()
        })
    }

    /// The SQLSTATEs are in [PostgreSQL's
    /// list](https://www.postgresql.org/docs/current/errcodes-appendix.html), those that can be retried in
    /// its [chapter on serialization
    /// failures](https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, Exclusion, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable) = match report.sqlstate {
            // 72000 is "snapshot too old"; CR000 is what old versions of CockroachDB report for 40001.
            "40001" | "40000" | "72000" | "CR000" => (Kind::SerializationFailure, true),
            "40P01" => (Kind::Deadlock, true),
            // NOWAIT and lock_timeout share the code. The statement distinguishes them.
            "55P03" if report.nowait => (Kind::LockNotAvailable, true),
            "55P03" => (Kind::LockTimeout, true),
            "57014" | "25P04" => (Kind::StatementTimeout, false),
            // XXA00 is CockroachDB's "committed, but a schema change failed".
            "40003" | "08007" | "XXA00" => (Kind::CommitUnknown, false),
            "25P03" | "57P05" | "57P01" | "57P02" | "08000" | "08003" | "08006" => {
                (Kind::ConnectionLost, true)
            }
            // 58C00 is CockroachDB's "range unavailable".
            "57P03" | "53300" | "53000" | "53200" | "08001" | "08004" | "58C00" => (Kind::Unavailable, true),
            // pgbouncer reports this if it has lost its server, or has none.
            "08P01" if report.fatal => (Kind::Unavailable, true),
            // Aurora DSQL has lost the storage or the node for a moment.
            "XX000" if report.message.contains("unavailable") => (Kind::Unavailable, true),
            "25006" => (Kind::ReadOnly, true),
            // 3B001: the savepoint does not exist, because its transaction has ended.
            "25P02" | "3B001" => (Kind::Aborted, false),
            "23505" => return violation(report, Unique),
            "23P01" => return violation(report, Exclusion),
            "23503" | "23001" => return violation(report, ForeignKey),
            "23502" => return violation(report, NotNull),
            "23514" | "44000" => return violation(report, Check),
            // A pooler may mix up the names of prepared statements, so that another attempt would run
            // another client's statement.
            _ if is_outdated(report) => (Kind::Other, !matches!(report.sqlstate, "26000" | "42P05")),
            _ => (Kind::Other, false),
        };
        let deadlock =
            if kind == Kind::Deadlock { deadlock::report(report.detail, report.context) } else { None };
        Failure::new(kind, redacted(report))
            .with_code(report.sqlstate)
            .with_deadlock(deadlock)
            .retryable(retryable)
            .spoiling_session(report.fatal || is_outdated(report))
            // 25P03: the session was closed while it was idle, before it read a COMMIT.
            .definite(report.sqlstate == "25P03" || (!report.fatal && is_definite(report.sqlstate)))
    }

    fn provoke(fault: Fault) -> Option<Provocation> {
        let sql = match fault {
            Fault::SerializationFailure => {
                "DO $$BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'an injected fault'; END$$"
            }
            Fault::Deadlock => "DO $$BEGIN RAISE SQLSTATE '40P01' USING MESSAGE = 'an injected fault'; END$$",
            Fault::LockTimeout => {
                "DO $$BEGIN RAISE SQLSTATE '55P03' USING MESSAGE = 'an injected fault'; END$$"
            }
            Fault::ConnectionLost | Fault::AnswerLost => return None,
        };
        Some(Provocation::Send(sql))
    }
}

/// Returns whether the session's plans and prepared statements, or the driver's cache of types, no longer
/// match the schema. The statement then fails on this connection each time, and works on another one.
///
/// - `0A000` is a plan that outlived a change of its table. The message is in the server's language, but
///   the name of the function that raised it is not.
/// - `26000` and `42P05` are about a prepared statement of the driver that another client has removed from
///   the session or left in it. For any other name, they are the caller's mistake.
/// - `XX000` is a type that was dropped and created again, while the driver caches its old OID.
fn is_outdated(report: &ServerReport<'_>) -> bool {
    let has = |text: &str| report.message.contains(text);
    match report.sqlstate {
        "0A000" => report.routine == Some("RevalidateCachedQuery") || has("cached plan must not change"),
        "26000" | "42P05" => has("\"sqlx_s_"),
        "XX000" => has("cache lookup failed for type"),
        _ => false,
    }
}

fn violation(report: &ServerReport<'_>, kind: ConstraintKind) -> Failure {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let columns = match kind {
        ConstraintKind::NotNull => report.column.into_iter().map(str::to_owned).collect(),
        // "Key (a, b)=(1, 2) already exists.", in any language.
        ConstraintKind::Unique | ConstraintKind::ForeignKey => {
            report.detail.and_then(|detail| between(detail, "(", ")=(")).map_or_else(Vec::new, names)
        }
        ConstraintKind::Check | ConstraintKind::Exclusion => Vec::new(),
    };
    let constraint = Constraint {
        name: owned(report.constraint),
        table: owned(report.table),
        columns,
        ..Constraint::new(kind)
    };
    Failure::new(FailureKind::Constraint, redacted(report))
        .with_code(report.sqlstate)
        .with_constraint(Some(constraint))
        .definite(!report.fatal)
}

/// Returns whether the error is one of the statement itself, which aborted the transaction. Errors of the
/// server's environment (classes 08, 53, 57, 58, XX) can occur after the commit became durable.
fn is_definite(sqlstate: &str) -> bool {
    match sqlstate {
        "40003" | "XXA00" => false,
        "57014" => true,
        code => {
            matches!(code.get(..2), Some("40" | "23" | "25" | "22" | "42" | "44" | "55" | "P0" | "0A" | "3B"))
        }
    }
}
