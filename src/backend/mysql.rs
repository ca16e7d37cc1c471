//! MySQL, MariaDB, and what speaks their protocol: Galera, TiDB.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlDatabaseError};
use sqlx::{Arguments as _, AssertSqlSafe, MySql, SqlSafeStr as _};

use super::text::{between, last_between, names, unquoted};
use super::{
    AskEngine, Backend, BeforeLoneStatement, Closing, Driver, Ending, Engine, Facts, Guard, Key,
    LatestDeadlock, LockWaits, Probe, Provocation, Sealed, ServerReport, SnapshotAge, Survival, Target,
    WatchedQuery, whole_clause, whole_seconds,
};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;
use crate::isolation::Isolation;
use crate::row_lock::{RowLock, Strength, WaitPolicy};
use crate::sql_text::{LoneEffect, Statement, Syntax, TransactionEffect};
use crate::strategy::{CommitMarker, Limits, Plan};

mod deadlock;
mod innodb_status;
mod literals;
mod said;
mod schema;
mod debug;
mod statements;
mod transaction;

impl Backend for MySql {}
impl Sealed for MySql {}

impl Driver for MySql {
    fn rows_affected(result: &sqlx::mysql::MySqlQueryResult) -> u64 {
        result.rows_affected()
    }
}

impl Facts for MySql {
    const SYSTEM: &'static str = "mysql";

    /// `SHOW` and not `@@wsrep_on`: servers without the variable would refuse that.
    const ASK_ENGINE: Option<AskEngine> = Some(AskEngine {
        sql: "SELECT CONCAT_WS(' ', VERSION(), @@max_allowed_packet /*M! , @@idle_transaction_timeout*/); \
              SHOW VARIABLES LIKE 'wsrep_on'",
        read: engine,
    });

    fn opening(plan: &Plan, limits: &Limits) -> Result<String, Failure> {
        transaction::opening(plan, limits)
    }

    /// 1568: `SET TRANSACTION` is refused while a transaction is open, which a session with `autocommit = 0`
    /// has after any SELECT.
    fn found_open_transaction(failure: &Failure) -> bool {
        failure.code() == Some("1568")
    }

    /// Procedures may commit, and begin anew.
    const PROBE: Option<Probe> = Some(Probe {
        set: "SAVEPOINT atomically_probe",
        release: "RELEASE SAVEPOINT atomically_probe",
        reset: "SAVEPOINT atomically_guard",
    });

    /// DDL and procedures commit implicitly, and the session goes on in autocommit without a word: the
    /// release of the savepoint that was set at the opening fails after any of it.
    const GUARD: Guard = Guard {
        sql: transaction::GUARD_HOLDS,
        has_ended: |failure| failure.is_some_and(|failure| failure.kind() == FailureKind::Aborted),
    };

    /// [InnoDB](https://dev.mysql.com/doc/refman/8.4/en/innodb-error-handling.html) ends the transaction of a
    /// deadlock's victim, savepoints included.
    fn rolls_back_everything(failure: &Failure) -> bool {
        matches!(failure.kind(), FailureKind::Deadlock | FailureKind::SerializationFailure)
    }

    fn commit(closing: &Closing) -> Ending {
        transaction::commit(closing)
    }

    fn rollback(closing: &Closing) -> Cow<'static, str> {
        transaction::rollback(closing)
    }

    /// The savepoint stays, to be replaced by the next one with its name: a second statement would need a
    /// packet of its own.
    fn rollback_to(savepoint: &str) -> String {
        format!("ROLLBACK TO SAVEPOINT {savepoint}")
    }

    const BEFORE_LONE_STATEMENT: Option<BeforeLoneStatement> = Some(BeforeLoneStatement {
        ask: "SELECT @@autocommit",
        set: "ROLLBACK AND NO CHAIN NO RELEASE; SET autocommit = 1",
        put_back: "SET autocommit = 0",
    });

    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = false;

    /// MariaDB has no `FOR SHARE`. MySQL has, and only there it takes OF, NOWAIT and SKIP LOCKED. MariaDB has
    /// no OF, and answers with a syntax error.
    fn lock_clause(lock: RowLock) -> Option<Cow<'static, str>> {
        let clause = match (lock.strength, lock.wait, lock.table) {
            (Strength::Update | Strength::NoKeyUpdate, ..) => "FOR UPDATE",
            (Strength::Share | Strength::KeyShare, _, Some(_)) => "FOR SHARE",
            (Strength::Share | Strength::KeyShare, WaitPolicy::Block, None) => "LOCK IN SHARE MODE",
            (Strength::Share | Strength::KeyShare, _, None) => {
                "/*M! LOCK IN SHARE MODE*/ /*!50799 FOR SHARE*/"
            }
        };
        Some(whole_clause(clause, lock))
    }

    const SYNTAX: Syntax = Syntax::MySql;

    const PREPARES_ONE_STATEMENT: bool = true;

    const TEXT_IS_ONE_TRANSACTION: bool = false;

    const AFTER_CALL: Option<&'static str> = Some(transaction::COMMIT);

    fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect {
        statements::transaction_effect(statement)
    }

    fn lone_effect(statement: &Statement<'_>) -> LoneEffect {
        statements::lone_effect(statement)
    }

    fn placeholder(_number: usize) -> Cow<'static, str> {
        "?".into()
    }

    /// The lock is the session's, and is given back with the end of the transaction.
    fn advisory_lock(key: u64, wait: Option<Duration>) -> Option<String> {
        let seconds = wait.map_or(0, whole_seconds);
        Some(format!("SELECT CAST(GET_LOCK('{}', {seconds}) AS SIGNED)", lock_name(key)))
    }

    /// GET_LOCK reads no table, so it takes no snapshot; at SERIALIZABLE every read locks what it reads.
    fn snapshot_age(isolation: Isolation) -> SnapshotAge {
        if isolation == Isolation::RepeatableRead {
            SnapshotAge::OfTheFirstStatement
        } else {
            SnapshotAge::Younger
        }
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = false;

    /// Not on Galera; and MySQL does not say whether it is a member of a replication group.
    fn unique_keys_fence(engine: Engine) -> bool {
        engine.is_mariadb && !engine.is_galera
    }

    fn creation(schema: &'static str) -> String {
        schema::creation(schema)
    }

    const AFTER_CREATION_FAILED: Option<&'static str> = Some(schema::PUT_BACK);

    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BINARY(16) PRIMARY KEY,
        recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) ENGINE = InnoDB";

    fn marker(marker: CommitMarker) -> Result<String, Failure> {
        match marker {
            CommitMarker::Operation(id) => {
                Ok(format!("INSERT INTO atomically_operation (id) VALUES (x'{id:032x}')"))
            }
            CommitMarker::TransactionStatus => {
                Err(Failure::unsupported("MySQL", "memory of transactions that have ended"))
            }
        }
    }

    fn purge_operations(older_than: Duration) -> String {
        format!(
            "DELETE FROM atomically_operation WHERE recorded_at < CURRENT_TIMESTAMP - INTERVAL {} SECOND LIMIT 1000",
            older_than.as_secs()
        )
    }

    const SESSION: Option<&'static str> = Some("SELECT CAST(CONNECTION_ID() AS SIGNED)");

    /// InnoDB's status is asked because its table of transactions is a copy that is not renewed while anybody
    /// reads it; it knows nothing of user and metadata locks, which the list of processes does. MySQL's
    /// leaves out a transaction that has only read, also while it waits for a lock; the table of locks has
    /// it.
    fn lock_waits(_sessions: &[i64]) -> Option<LockWaits> {
        let sql = "SHOW ENGINE INNODB STATUS; \
                   SELECT CONCAT('process ', id, ' ', state) \
                   FROM /*M! information_schema.processlist*/ /*!80022 performance_schema.processlist*/ \
                   WHERE state = 'User lock' OR state LIKE 'Waiting for % lock' \
                   /*!80022 UNION ALL SELECT CONCAT('process ', processlist_id, ' a row of ', waiting.object_name, ' (', \
                   lock_mode, ')') FROM performance_schema.data_locks AS waiting \
                   JOIN performance_schema.threads USING (thread_id) WHERE lock_status = 'WAITING'*/";
        Some(LockWaits { sql: sql.to_owned(), read: debug::lock_waits })
    }

    fn latest_deadlock(age: Duration) -> Option<LatestDeadlock> {
        Some(deadlock::latest_deadlock(age))
    }

    /// A real deadlock has rolled everything back by the time it is told.
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

    fn shown_arguments(arguments: &str) -> Option<Vec<String>> {
        debug::arguments(arguments)
    }

    const INTEGER: &'static str = "SIGNED";

    /// Joined to a list of values, text keys would be compared by the collation of neither.
    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, BoxDynError> {
        let Target { table, key, column } = target;
        let mut arguments = MySqlArguments::default();
        for (id, delta) in changes {
            arguments.add(*id)?;
            arguments.add(*delta)?;
        }
        for (id, _) in changes {
            arguments.add(*id)?;
        }
        let (cases, ids) = (" WHEN ? THEN ?".repeat(changes.len()), vec!["?"; changes.len()].join(", "));
        let sql =
            format!("UPDATE {table} SET {column} = {column} + CASE {key}{cases} END WHERE {key} IN ({ids})");
        Ok(WatchedQuery::made_of(AssertSqlSafe(sql).into_sql_str(), arguments))
    }

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
    /// [MariaDB](https://mariadb.com/kb/en/mariadb-error-code-reference/)); what InnoDB rolls back is in [its
    /// manual](https://dev.mysql.com/doc/refman/8.4/en/innodb-error-handling.html). From 8000 on they are
    /// TiDB's.
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable) = match report.number {
            1213 | 1614 | 3058 => (Kind::Deadlock, true),
            // 1020: a row changed since the snapshot (MariaDB, innodb_snapshot_isolation). 3101:
            // certification failed (Group Replication). 1412: a table's definition changed. 1402, 1613: an XA
            // branch was rolled back.
            1020 | 3101 | 1402 | 1412 | 1613 => (Kind::SerializationFailure, true),
            8002 | 8005 | 8022 | 8028 | 8055 | 9006 | 9007 => (Kind::SerializationFailure, true),
            // MariaDB has one number for NOWAIT and for a timeout: what was sent tells them apart.
            1205 if report.nowait => (Kind::LockNotAvailable, true),
            1205 | 1689 | 9004 => (Kind::LockTimeout, true),
            3572 => (Kind::LockNotAvailable, true),
            3024 | 1969 | 1317 => (Kind::StatementTimeout, false),
            // "Error during COMMIT" means two things: a deadlock found there, and a cluster that fell apart.
            1180 if names_a_deadlock(report.message) => (Kind::SerializationFailure, true),
            1180 | 1964 | 3100 => (Kind::CommitUnknown, false),
            1053 | 1080 | 1152 | 1158..=1161 | 1927 | 4031 => (Kind::ConnectionLost, true),
            1037 | 1040 | 1041 | 1047 | 1203 | 1206 | 1226 | 1461 | 1637 => (Kind::Unavailable, true),
            8027 | 8175 | 8252 | 9001 | 9002 | 9003 | 9005 => (Kind::Unavailable, true),
            // 1290 names whichever server option forbids the statement.
            1290 if report.message.contains("read-only") || report.message.contains("read_only") => {
                (Kind::ReadOnly, true)
            }
            1836 | 1874 => (Kind::ReadOnly, true),
            // A variable that this server does not have; what Group Replication does not support
            // (SERIALIZABLE, tables without a primary key).
            1193 | 3098 => (Kind::Unsupported, false),
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
            // A prepared statement outlived changes of its tables, and the server could not prepare it anew.
            1615 => (Kind::Other, true),
            _ => (Kind::Other, false),
        };
        let definite = match report.number {
            1153 | 1213 | 1020 | 1305 | 3101 | 8002 | 8005 | 8022 | 8028 | 9007 => true,
            1180 => retryable,
            // A Galera node outside of the primary component refuses statements before it executes them.
            1047 => report.message.contains("WSREP"),
            // The server has closed a session that was idle: it had read no COMMIT.
            4031 => report.sqlstate != "23000",
            _ => false,
        };
        Failure::new(kind, said::said(report))
            .with_code(report.number.to_string())
            .retryable(retryable)
            // The server closes the connection on a packet that is too large.
            .spoiling_session(matches!(report.number, 1153 | 1615))
            .definite(definite)
    }

    /// InnoDB undoes the statement alone, or everything; which of the two depends on the error, and after a
    /// lock wait on the server's configuration.
    fn after(failure: &Failure) -> Survival {
        match failure.kind() {
            _ if failure.ends_session() => Survival::Over,
            FailureKind::Constraint | FailureKind::Unsupported | FailureKind::Other => Survival::Open,
            _ => Survival::Over,
        }
    }

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

fn engine(answers: &[String]) -> Engine {
    let mut server = answers.first().map_or("", String::as_str).split(' ');
    let version = server.next().unwrap_or_default();
    let max_packet = server.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Engine {
        is_mariadb: version.contains("MariaDB"),
        is_galera: answers.get(1).is_some_and(|wsrep| wsrep == "ON"),
        limits_idling: server.next().is_some_and(|seconds| seconds != "0"),
        max_packet,
    }
}

fn lock_name(key: u64) -> String {
    format!("atomically:{key:016x}")
}

/// Handler errors 149 (deadlock) and 146 (lock wait) are rolled back before they are reported.
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
        // MariaDB: "CONSTRAINT `name` failed for `db`.`table`". MySQL: "Check constraint 'name' is violated."
        // A view: "CHECK OPTION failed `db`.`view`"
        ConstraintKind::Check | ConstraintKind::Exclusion => {
            constraint.name = between(message, "CONSTRAINT `", "`")
                .or_else(|| between(message, "constraint '", "'"))
                // MariaDB names a column's own check after the table and the column.
                .map(|name| unquoted(name.rsplit('.').next().unwrap_or(name)).to_owned());
            constraint.table = between(message, "`.`", "`").map(str::to_owned);
        }
    }
    // Only constraints checked at COMMIT (TiDB's optimistic mode) could answer one, and there nothing says
    // what then.
    Failure::new(FailureKind::Constraint, said::said(report))
        .with_code(report.number.to_string())
        .with_constraint(Some(constraint))
        .definite(false)
}
