//! Errors of MySQL, MariaDB, Galera, TiDB and Vitess.

use std::time::Duration;

use sqlx::MySql;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

use super::deadlock;
use super::messages::redacted;
use crate::backend::errors::{DeadlockQuery, ErrorReports, Provocation, ServerReport};
use crate::backend::messages::{between, last_between, names, unquoted};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;

impl ErrorReports for MySql {
    fn report<'e>(error: &'e (dyn DatabaseError + 'static)) -> Option<ServerReport<'e>> {
        let error = error.try_downcast_ref::<MySqlDatabaseError>()?;
        Some(ServerReport {
            sqlstate: error.code().unwrap_or_default(),
            number: u32::from(error.number()),
            message: error.message(),
            ..ServerReport::default()
        })
    }

    /// Numbers below 1900 are shared by MySQL and MariaDB
    /// ([MySQL](https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html),
    /// [MariaDB](https://mariadb.com/kb/en/mariadb-error-code-reference/)); what InnoDB rolls back is in
    /// [its manual](https://dev.mysql.com/doc/refman/8.4/en/innodb-error-handling.html). From 8000 on they
    /// are TiDB's.
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable) = match report.number {
            1213 | 1614 | 3058 => (Kind::Deadlock, true),
            // 1020: a row changed since the snapshot (MariaDB, innodb_snapshot_isolation). 3101:
            // certification failed (Group Replication). 1412: a table's definition changed. 1402, 1613: an
            // XA branch was rolled back.
            1020 | 3101 | 1402 | 1412 | 1613 => (Kind::SerializationFailure, true),
            8002 | 8005 | 8022 | 8028 | 8055 | 9006 | 9007 => (Kind::SerializationFailure, true),
            // MariaDB has one number for NOWAIT and for a timeout. The statement distinguishes them.
            1205 if report.nowait => (Kind::LockNotAvailable, true),
            1205 | 1689 | 9004 => (Kind::LockTimeout, true),
            3572 => (Kind::LockNotAvailable, true),
            // Vitess has ended the transaction, because a shard has failed over or its time was up.
            1317 | 1105 if names_a_status(report.message, "Aborted") => (Kind::Aborted, true),
            3024 | 1969 | 1317 => (Kind::StatementTimeout, false),
            1105 if names_a_status(report.message, "DeadlineExceeded") => (Kind::StatementTimeout, false),
            1105 if STATUSES_OF_ABSENCE.iter().any(|status| names_a_status(report.message, status)) => {
                (Kind::Unavailable, true)
            }
            // "Error during COMMIT" is either a deadlock or a cluster that has lost its quorum.
            1180 if names_a_deadlock(report.message) => (Kind::SerializationFailure, true),
            1180 | 1964 | 3100 => (Kind::CommitUnknown, false),
            1053 | 1080 | 1152 | 1158..=1161 | 1927 | 4031 => (Kind::ConnectionLost, true),
            1037 | 1040 | 1041 | 1047 | 1203 | 1206 | 1226 | 1461 | 1637 => (Kind::Unavailable, true),
            8027 | 8175 | 8252 | 9001 | 9002 | 9003 | 9005 => (Kind::Unavailable, true),
            // 1290 names the server option that forbids the statement.
            1290 if report.message.contains("read-only") || report.message.contains("read_only") => {
                (Kind::ReadOnly, true)
            }
            1836 | 1874 => (Kind::ReadOnly, true),
            // A variable that this server does not have; a feature that Group Replication does not support
            // (SERIALIZABLE, tables without a primary key).
            1193 | 3098 => (Kind::Unsupported, false),
            // TiDB: a level that it lacks.
            8048 => (Kind::Unsupported, false),
            1792 => (Kind::ReadOnly, false),
            1305 if report.message.contains("SAVEPOINT") => (Kind::Aborted, false),
            8147 => (Kind::Aborted, false),
            8229 => (Kind::Aborted, true),
            1062 | 1586 | 1022 | 1169 | 1859 | 1761 | 1762 => return violation(report, Unique),
            1452 | 1451 | 1216 | 1217 => return violation(report, ForeignKey),
            1048 | 1364 => return violation(report, NotNull),
            3819 | 1369 => return violation(report, Check),
            // MySQL uses 4025 for something else, with another SQLSTATE.
            4025 if report.sqlstate == "23000" => return violation(report, Check),
            // A table of a prepared statement was changed, and the server could not prepare the statement
            // again.
            1615 => (Kind::Other, true),
            _ => (Kind::Other, false),
        };
        let definite = match report.number {
            1153 | 1213 | 1020 | 1305 | 3101 | 8002 | 8005 | 8022 | 8028 | 9007 => true,
            1180 => retryable,
            // A Galera node outside of the primary component refuses statements before it executes them.
            1047 => report.message.contains("WSREP"),
            // The server closed the session while it was idle, before it read a COMMIT.
            4031 => report.sqlstate != "23000",
            _ => false,
        };
        Failure::new(kind, redacted(report))
            .with_code(report.number.to_string())
            .retryable(retryable)
            // The server closes the connection on a packet that is too large.
            .spoiling_session(matches!(report.number, 1153 | 1615))
            .definite(definite)
    }

    fn deadlock_query(age: Duration) -> Option<DeadlockQuery> {
        Some(deadlock::deadlock_query(age))
    }

    /// The server reports a real deadlock after it has rolled the transaction back, so the provoked error
    /// does the same.
    fn provoke(fault: Fault) -> Option<Provocation> {
        let sql = match fault {
            Fault::SerializationFailure => {
                "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1020, MESSAGE_TEXT = 'an injected fault'"
            }
            Fault::Deadlock => {
                "ROLLBACK; SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'an injected fault'"
            }
            Fault::LockTimeout => {
                "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'an injected fault'"
            }
            Fault::ConnectionLost | Fault::AnswerLost => return None,
        };
        Some(Provocation::Send(sql))
    }
}

/// The states in which a shard of Vitess takes no statements.
const STATUSES_OF_ABSENCE: [&str; 3] = ["Unavailable", "ClusterEvent", "ResourceExhausted"];

/// Whether the message of Vitess names this status: `rpc error: code = Aborted desc = transaction 12: …`
fn names_a_status(message: &str, status: &str) -> bool {
    message.split("code = ").skip(1).any(|rest| {
        rest.strip_prefix(status).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

/// Whether the message names handler error 149 (deadlock) or 146 (lock wait), which are rolled back before
/// they are reported.
fn names_a_deadlock(message: &str) -> bool {
    message.contains("error 149") || message.contains("error 146")
}

fn violation(report: &ServerReport<'_>, kind: ConstraintKind) -> Failure {
    let message = report.message;
    let mut constraint = Constraint::new(kind);
    match kind {
        // "Duplicate entry 'x' for key 'name'"; MySQL puts the table before the name.
        ConstraintKind::Unique => {
            if let Some(key) = last_between(message, "for key '", "'") {
                let (table, name) =
                    key.rsplit_once('.').map_or((None, key), |(table, name)| (Some(table), name));
                constraint.name = Some(name.to_owned());
                constraint.table = table.map(str::to_owned);
            }
        }
        // "…fails (`db`.`child`, CONSTRAINT `name` FOREIGN KEY (`a`) REFERENCES `parent` (`id`))"
        ConstraintKind::ForeignKey => {
            constraint.name = between(message, "CONSTRAINT `", "`").map(str::to_owned);
            constraint.table = between(message, "`.`", "`").map(str::to_owned);
            constraint.columns = between(message, "FOREIGN KEY (", ")").map_or_else(Vec::new, names);
        }
        // "Column 'a' cannot be null", "Field 'a' doesn't have a default value"
        ConstraintKind::NotNull => {
            constraint.columns = between(message, "'", "'").map_or_else(Vec::new, names)
        }
        // MariaDB: "CONSTRAINT `name` failed for `db`.`table`". MySQL: "Check constraint 'name' is
        // violated." A view: "CHECK OPTION failed `db`.`view`"
        ConstraintKind::Check | ConstraintKind::Exclusion => {
            constraint.name = between(message, "CONSTRAINT `", "`")
                .or_else(|| between(message, "constraint '", "'"))
                // MariaDB names a column's own check after the table and the column.
                .map(|name| unquoted(name.rsplit('.').next().unwrap_or(name)).to_owned());
            constraint.table = between(message, "`.`", "`").map(str::to_owned);
        }
    }
    // At COMMIT only a constraint that is checked there (TiDB's optimistic mode) can fail, and TiDB's
    // documentation does not say what is stored then.
    Failure::new(FailureKind::Constraint, redacted(report))
        .with_code(report.number.to_string())
        .with_constraint(Some(constraint))
        .definite(false)
}
