//! Tests of how every known error code of every engine is classified, without a server.

use super::driver::failure as failure_without_server;
use super::errors::{ErrorReports as _, ServerReport, failure_of};
use crate::failure::{ConstraintKind, Failure, FailureKind};

/// Error codes and their meaning, from the manuals of the engines and from their servers. `flag` adds what
/// the code alone does not determine: `nowait`, or PostgreSQL's severity `fatal`. The error of a `commit` row
/// was reported by COMMIT.
const CODES: &str = include_str!("error_codes.csv");

fn classify(engine: &str, report: &ServerReport<'_>) -> Failure {
    match engine {
        "postgres" | "cockroachdb" | "yugabytedb" | "aurora_dsql" => sqlx::Postgres::classify(report),
        "mysql8" | "mariadb" | "galera" | "tidb" | "vitess" => sqlx::MySql::classify(report),
        "sqlite" => sqlx::Sqlite::classify(report),
        other => panic!("no such engine: {other}"),
    }
}

fn class(failure: &Failure) -> &'static str {
    match failure.kind() {
        FailureKind::SerializationFailure => "serialization_failure",
        FailureKind::Deadlock => "deadlock",
        FailureKind::StaleVersion => "stale_version",
        FailureKind::Busy => "busy",
        FailureKind::LockTimeout => "lock_timeout",
        FailureKind::LockNotAvailable => "lock_not_available",
        FailureKind::StatementTimeout => "statement_timeout",
        FailureKind::ConnectionLost => "connection_lost",
        FailureKind::CommitUnknown => "commit_unknown",
        FailureKind::Unavailable => "transient_unavailable",
        FailureKind::Overloaded => "overloaded",
        FailureKind::ReadOnly => "read_only",
        FailureKind::Aborted => "aborted_transaction",
        FailureKind::StaleClaim => "stale_claim",
        FailureKind::Unsupported => "unsupported",
        FailureKind::InvalidInput => "invalid_input",
        FailureKind::Other => "other",
        FailureKind::Constraint => match failure.constraint().map(|constraint| constraint.kind) {
            Some(ConstraintKind::Unique) => "unique_violation",
            Some(ConstraintKind::ForeignKey) => "foreign_key_violation",
            Some(ConstraintKind::NotNull) => "not_null_violation",
            Some(ConstraintKind::Check) => "check_violation",
            Some(ConstraintKind::Exclusion) => "exclusion_violation",
            None => "a constraint violation without a constraint",
        },
    }
}

#[test]
fn every_known_code_is_classified() {
    let mut checked = 0;
    for line in CODES.lines().skip(1) {
        let fields: Vec<_> = line.splitn(9, ',').collect();
        let [engine, codes, sqlstate, message, phase, flag, expected, retry, _condition] = fields[..] else {
            panic!("nine fields: {line}");
        };
        for code in codes.split('|') {
            let report = ServerReport {
                sqlstate,
                number: code.parse().unwrap_or_default(),
                message,
                fatal: flag == "fatal",
                nowait: flag == "nowait",
                ..ServerReport::default()
            };
            let mut failure = classify(engine, &report);
            if phase == "commit" && !failure.is_definite() {
                failure = failure.into_commit_unknown();
            }
            assert_eq!(class(&failure), expected, "{code} of {line}");
            assert_eq!(failure.is_retryable(), retry == "yes", "{code} of {line}");
            checked += 1;
        }
    }
    assert!(checked > 250, "only {checked} codes were read");
}

/// Only an error of the statement itself proves that COMMIT has stored nothing.
#[test]
fn only_errors_of_the_statement_prove_that_a_commit_failed() {
    let postgres = |sqlstate, fatal| {
        sqlx::Postgres::classify(&ServerReport { sqlstate, fatal, ..ServerReport::default() }).is_definite()
    };
    for sqlstate in ["40001", "40P01", "23503", "23505", "25P02", "57014", "22012", "42P01", "55P03", "P0001"]
    {
        assert!(postgres(sqlstate, false), "{sqlstate}");
        assert!(!postgres(sqlstate, true), "{sqlstate} as FATAL");
    }
    for sqlstate in ["40003", "XXA00", "08006", "08007", "08P01", "53100", "57P01", "58030", "XX000"] {
        assert!(!postgres(sqlstate, false), "{sqlstate}");
    }

    let mysql = |number, message| {
        sqlx::MySql::classify(&ServerReport { number, message, ..ServerReport::default() }).is_definite()
    };
    for number in [1213, 3101, 8002, 8005, 8022, 8028, 9007] {
        assert!(mysql(number, ""), "{number}");
    }
    assert!(mysql(1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT"));
    for number in [1047, 1053, 1180, 1964, 3100, 9001, 9005] {
        assert!(!mysql(number, ""), "{number}");
    }

    let sqlite =
        |number| sqlx::Sqlite::classify(&ServerReport { number, ..ServerReport::default() }).is_definite();
    assert!([5, 261, 517, 787, 2067].into_iter().all(sqlite));
    assert!(![10, 1034, 13].into_iter().any(sqlite));
}

#[test]
fn failures_that_only_affect_one_session_end_it() {
    let postgres = |sqlstate, message, fatal| {
        let report = ServerReport { sqlstate, message, fatal, ..ServerReport::default() };
        sqlx::Postgres::classify(&report).ends_session()
    };
    assert!(postgres("0A000", "cached plan must not change result type", false));
    assert!(postgres("26000", "prepared statement \"sqlx_s_7\" does not exist", false));
    assert!(!postgres("26000", "prepared statement \"mine\" does not exist", false));
    for sqlstate in ["25006", "57P01", "57P02", "57P03", "08006"] {
        assert!(postgres(sqlstate, "", false), "{sqlstate}");
    }
    for sqlstate in ["25P03", "25P04", "57P04", "57P05", "XX000", "53200", "42501"] {
        assert!(postgres(sqlstate, "", true), "{sqlstate} as FATAL");
    }
    for sqlstate in ["40001", "57014", "23505", "0A000", "42P01"] {
        assert!(!postgres(sqlstate, "", false), "{sqlstate}");
    }
    let in_german = ServerReport {
        sqlstate: "0A000",
        message: "gecachter Plan darf den Ergebnistyp nicht ändern",
        routine: Some("RevalidateCachedQuery"),
        ..ServerReport::default()
    };
    assert!(sqlx::Postgres::classify(&in_german).ends_session());

    let mysql = |number, message| {
        sqlx::MySql::classify(&ServerReport { number, message, ..ServerReport::default() }).ends_session()
    };
    for number in [1615, 1836, 1053, 1927, 1047] {
        assert!(mysql(number, ""), "{number}");
    }
    assert!(mysql(1290, "The MySQL server is running with the --read-only option"));
    assert!(![1205, 1213, 1062, 1146].into_iter().any(|number| mysql(number, "")));
}

#[test]
fn nowait_and_lock_timeout_are_told_apart_by_the_statement() {
    for (engine, report) in [
        ("postgres", ServerReport { sqlstate: "55P03", ..ServerReport::default() }),
        ("mariadb", ServerReport { number: 1205, ..ServerReport::default() }),
    ] {
        assert_eq!(classify(engine, &report).kind(), FailureKind::LockTimeout);
        let nowait = ServerReport { nowait: true, ..report };
        assert_eq!(classify(engine, &nowait).kind(), FailureKind::LockNotAvailable);
    }
}

#[test]
fn driver_errors_are_classified_without_a_server() {
    use std::io::{Error, ErrorKind};

    let kind = |error: sqlx::Error| {
        failure_without_server(&error).map(|failure| (failure.kind(), failure.is_retryable()))
    };
    let lost = Some((FailureKind::ConnectionLost, true));
    assert_eq!(kind(Error::from(ErrorKind::UnexpectedEof).into()), lost);
    assert_eq!(kind(Error::from(ErrorKind::ConnectionReset).into()), lost);
    assert_eq!(kind(Error::from(ErrorKind::BrokenPipe).into()), lost);
    assert_eq!(kind(sqlx::Error::Protocol(String::new())), lost);
    assert_eq!(kind(sqlx::Error::WorkerCrashed), lost);
    let unavailable = Some((FailureKind::Unavailable, true));
    assert_eq!(kind(Error::from(ErrorKind::ConnectionRefused).into()), unavailable);
    assert_eq!(kind(sqlx::Error::PoolTimedOut), unavailable);
    let other = Some((FailureKind::Other, false));
    assert_eq!(kind(sqlx::Error::Tls("no".into())), other);
    assert_eq!(kind(sqlx::Error::PoolClosed), other);
    assert_eq!(kind(sqlx::Error::BeginFailed), other);
    // These are about the caller, and do not affect the transaction.
    for error in [
        sqlx::Error::RowNotFound,
        sqlx::Error::ColumnNotFound(String::new()),
        sqlx::Error::Decode("no".into()),
        sqlx::Error::Encode("no".into()),
        sqlx::Error::InvalidSavePointStatement,
        sqlx::Error::InvalidArgument(String::new()),
    ] {
        assert_eq!(failure_without_server(&error), None, "{error}");
    }
}

/// The error of a dead transaction keeps the root cause when it becomes an error of this crate.
#[test]
fn a_dead_transaction_reports_the_root_cause() {
    let cause = Failure::new(FailureKind::Deadlock, "a cycle").with_code("40P01").retryable(true);
    let error = sqlx::Error::from(super::SyntheticError::TransactionOver(cause.clone()));
    assert_eq!(failure_of::<sqlx::Sqlite>(&error, false), Some(cause));
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("40P01"));
    assert!(crate::Error::from(error).is_conflict());
}

mod constraints {
    use super::*;

    fn mysql(number: u32, sqlstate: &str, message: &str) -> (Option<String>, Option<String>, Vec<String>) {
        parts(&sqlx::MySql::classify(&ServerReport { number, sqlstate, message, ..ServerReport::default() }))
    }

    fn sqlite(number: u32, message: &str) -> (Option<String>, Option<String>, Vec<String>) {
        parts(&sqlx::Sqlite::classify(&ServerReport { number, message, ..ServerReport::default() }))
    }

    fn parts(failure: &Failure) -> (Option<String>, Option<String>, Vec<String>) {
        let constraint = failure.constraint().expect("a constraint");
        (constraint.name.clone(), constraint.table.clone(), constraint.columns.clone())
    }

    fn named(name: &str, table: &str, columns: &[&str]) -> (Option<String>, Option<String>, Vec<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(name), some(table), columns.iter().map(|&column| column.to_owned()).collect())
    }

    #[test]
    fn of_mysql_and_mariadb_are_read_from_the_message() {
        assert_eq!(mysql(1062, "23000", "Duplicate entry 'a@b' for key 'email'"), named("email", "", &[]));
        assert_eq!(
            mysql(1062, "23000", "Duplicate entry ' for key 'x'' for key 'account.email'"),
            named("email", "account", &[])
        );
        let child = "Cannot add or update a child row: a foreign key constraint fails (`shop`.`item`, \
                     CONSTRAINT `item_order` FOREIGN KEY (`order_id`, `shop_id`) \
                     REFERENCES `orders` (`id`, `shop_id`))";
        assert_eq!(mysql(1452, "23000", child), named("item_order", "item", &["order_id", "shop_id"]));
        assert_eq!(mysql(1048, "23000", "Column 'name' cannot be null"), named("", "", &["name"]));
        assert_eq!(
            mysql(1364, "HY000", "Field 'name' doesn't have a default value"),
            named("", "", &["name"])
        );
        assert_eq!(
            mysql(4025, "23000", "CONSTRAINT `positive` failed for `shop`.`stock`"),
            named("positive", "stock", &[])
        );
        assert_eq!(
            mysql(3819, "HY000", "Check constraint 'positive' is violated."),
            named("positive", "", &[])
        );
    }

    #[test]
    fn of_sqlite_are_read_from_the_message() {
        assert_eq!(sqlite(2067, "UNIQUE constraint failed: account.email"), named("", "account", &["email"]));
        assert_eq!(sqlite(1555, "UNIQUE constraint failed: t.a, t.b"), named("", "t", &["a", "b"]));
        assert_eq!(sqlite(2067, "UNIQUE constraint failed: index 'by_lower'"), named("by_lower", "", &[]));
        assert_eq!(sqlite(1299, "NOT NULL constraint failed: t.a"), named("", "t", &["a"]));
        assert_eq!(sqlite(275, "CHECK constraint failed: positive"), named("positive", "", &[]));
        assert_eq!(sqlite(787, "FOREIGN KEY constraint failed"), named("", "", &[]));
    }

    #[test]
    fn of_postgres_are_read_from_fields_and_from_a_detail_in_any_language() {
        let report = |sqlstate, detail| ServerReport {
            sqlstate,
            constraint: Some("account_email_key"),
            table: Some("account"),
            detail: Some(detail),
            ..ServerReport::default()
        };
        let unique =
            sqlx::Postgres::classify(&report("23505", "Key (lower(email), shop)=(a, 1) already exists."));
        assert_eq!(parts(&unique), named("account_email_key", "account", &["lower(email)", "shop"]));
        let german = sqlx::Postgres::classify(&report("23505", "Schlüssel »(email)=(a)« existiert bereits."));
        assert_eq!(parts(&german), named("account_email_key", "account", &["email"]));
    }
}
