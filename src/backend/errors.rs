//! Reads servers' errors, and classifies them.

use std::time::Duration;

use sqlx::Database;
use sqlx::error::DatabaseError;

use super::{carried_failure, driver, error_text};
use crate::deadlock::DeadlockReport;
use crate::failure::{Failure, FailureKind};
use crate::intercept::Fault;
use crate::schema::{is_missing_table, missing_table};

/// Reads and classifies the errors of a server.
#[doc(hidden)]
pub trait ErrorReports: Database {
    /// Reads the server's report from the driver's error; `None` if the error is another driver's.
    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>>;

    /// Classifies a report.
    fn classify(report: &ServerReport<'_>) -> Failure;

    /// Returns the query for the report of a deadlock that has rolled back the session's transaction at
    /// most `age` ago; `None` if the error contains the report, or the database keeps none.
    fn deadlock_query(_age: Duration) -> Option<DeadlockQuery> {
        None
    }

    /// Returns how to provoke a fault; `None` for a fault of the network, which needs no database.
    fn provoke(fault: Fault) -> Option<Provocation>;
}

/// A server's report of an error, as the drivers expose it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerReport<'a> {
    /// The SQLSTATE; empty on SQLite.
    pub sqlstate: &'a str,
    /// The error number of MySQL and MariaDB, or the extended result code of SQLite.
    pub number: u32,
    /// The message, in the language that the server is set to.
    pub message: &'a str,
    /// Whether the severity is PostgreSQL's FATAL or PANIC, which end the session.
    pub fatal: bool,
    /// Whether the statement had NOWAIT. Servers use one code for a refused lock and for a timeout.
    pub nowait: bool,
    /// The constraint, from PostgreSQL's fields.
    pub constraint: Option<&'a str>,
    /// The table, from the fields.
    pub table: Option<&'a str>,
    /// The column, from the fields.
    pub column: Option<&'a str>,
    /// The detail, of one or more lines.
    pub detail: Option<&'a str>,
    /// What the server was doing, innermost first.
    pub context: Option<&'a str>,
    /// The function of the server that raised the error.
    pub routine: Option<&'a str>,
}

/// Queries a server for the latest deadlock of the querying session.
#[doc(hidden)]
#[derive(Debug)]
pub struct DeadlockQuery {
    /// One or more statements, sent as one text.
    pub sql: String,
    /// Reads the last column of each row, given the statement that failed if it is known. Returns `None` if
    /// the deadlock is not one of this session, or was read before.
    pub read: fn(&[String], Option<&str>) -> FoundDeadlock,
}

/// A report, and the statement that makes the session remember that the report was read.
type FoundDeadlock = Option<(DeadlockReport, String)>;

/// How to provoke a fault.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provocation {
    /// Send a text that makes the server raise the error, with the error's effect on the transaction.
    Send(&'static str),
    /// Return an error without the server, for a failure after which the statement has had no effect.
    Pretend(FailureKind),
}

/// Classifies an error; `None` if it is about the caller, not the database: a missing row, a value that
/// does not decode.
pub(crate) fn failure_of<DB: ErrorReports>(error: &sqlx::Error, nowait: bool) -> Option<Failure> {
    match error {
        sqlx::Error::Database(error) => carried_failure::failure(error.as_ref()).or_else(|| {
            let report = DB::report(error.as_ref())?;
            let failure = DB::classify(&ServerReport { nowait, ..report });
            Some(with_advice(failure, report.message))
        }),
        error => driver::failure(error),
    }
}

/// Adds how to create a table of this crate, if the failure is that it does not exist.
fn with_advice(failure: Failure, message: &str) -> Failure {
    match Some(message).filter(|_| is_missing_table(&failure)).and_then(missing_table) {
        Some(advice) => failure.with_note(&advice).lacking_own_table(),
        None => failure,
    }
}

/// Classifies an error, as [`FailureKind::Other`] if it is not about the database.
pub(crate) fn failure_or_other<DB: ErrorReports>(error: &sqlx::Error) -> Failure {
    failure_of::<DB>(error, false)
        .unwrap_or_else(|| Failure::new(FailureKind::Other, error_text::error_text(error)))
}
