//! PostgreSQL, and what speaks its protocol: CockroachDB, YugabyteDB.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgSeverity};

use super::text::{between, names};
use super::{
    AddInOneStatement, Backend, Closing, Driver, Ending, Facts, GUARD, Guard, Key, LockWaits, OwnLockTimeout,
    Provocation, Sealed, ServerReport, SnapshotAge, Survival, Target, TransactionStatus, WatchedQuery,
    add_listed, whole_clause,
};
use crate::failure::{Constraint, ConstraintKind, Failure, FailureKind};
use crate::intercept::Fault;
use crate::isolation::{Access, Isolation};
use crate::row_lock::{RowLock, Strength};
use crate::sql_text::{LoneEffect, Statement, Syntax, TransactionEffect};
use crate::strategy::{CommitMarker, Limits, Plan};

mod single_statement;
mod deadlock;
pub(super) mod prepared;
mod limits;
mod literals;
mod said;
mod schema;
mod debug;
mod statements;

impl Backend for Postgres {}
impl Sealed for Postgres {}

impl Driver for Postgres {
    fn rows_affected(result: &sqlx::postgres::PgQueryResult) -> u64 {
        result.rows_affected()
    }
}

impl Facts for Postgres {
    const SYSTEM: &'static str = "postgresql";

    fn opening(plan: &Plan, limits: &Limits) -> Result<String, Failure> {
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
        let mut sql = format!("BEGIN ISOLATION LEVEL {}", plan.isolation);
        if reads_only {
            sql.push_str(" READ ONLY");
        }
        if plan.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        sql.push_str(&limits::of_transaction(limits));
        Ok(sql)
    }

    fn own_lock_timeout(limits: &Limits, answers: &[String]) -> Option<OwnLockTimeout> {
        limits::own_lock_timeout(limits, answers)
    }

    const ASK_IDLE_LIMIT: Option<&'static str> = Some("SHOW idle_in_transaction_session_timeout");

    /// 25001: the transaction that is open has read already, and takes no isolation level any more.
    fn found_open_transaction(failure: &Failure) -> bool {
        failure.code() == Some("25001")
    }

    /// A hot standby refuses SERIALIZABLE as a feature that it does not have, in the words of the server's
    /// language.
    fn ask_read_only(failure: &Failure) -> Option<&'static str> {
        (failure.code() == Some("0A000")).then_some("SELECT pg_is_in_recovery()::int::bigint")
    }

    /// 25P01: there is no transaction. In one that has failed, which is another matter, it is 25P02.
    const GUARD: Guard = Guard {
        sql: "SAVEPOINT atomically_guard",
        has_ended: |failure| failure.is_some_and(|failure| failure.code() == Some("25P01")),
    };

    const EVERY_ERROR_ABORTS: bool = true;

    /// COMMIT answers an aborted transaction with `ROLLBACK` and no error, and no transaction at all with a
    /// warning; the driver shows neither. SAVEPOINT fails in both cases.
    fn commit(closing: &Closing) -> Ending {
        if closing.unwatched {
            Ending { sql: format!("SAVEPOINT {GUARD}; COMMIT").into(), before_commit: 1, ..Ending::default() }
        } else {
            Ending { sql: "COMMIT".into(), ..Ending::default() }
        }
    }

    fn rollback(_closing: &Closing) -> Cow<'static, str> {
        "ROLLBACK".into()
    }

    const REFUSED_COMMIT_ENDS_TRANSACTION: bool = true;

    fn lock_clause(lock: RowLock) -> Option<Cow<'static, str>> {
        let clause = match lock.strength {
            Strength::Update => "FOR UPDATE",
            Strength::NoKeyUpdate => "FOR NO KEY UPDATE",
            Strength::Share => "FOR SHARE",
            Strength::KeyShare => "FOR KEY SHARE",
        };
        Some(whole_clause(clause, lock))
    }

    const SYNTAX: Syntax = Syntax::Postgres;

    fn keeps_statements(connection: &Self::Connection) -> bool {
        sqlx::Connection::cached_statements_size(connection) > 0
    }

    const PREPARES_ONE_STATEMENT: bool = true;

    const TEXT_IS_ONE_TRANSACTION: bool = true;

    fn transaction_effect(statement: &Statement<'_>) -> TransactionEffect {
        statements::transaction_effect(statement)
    }

    fn lone_effect(statement: &Statement<'_>) -> LoneEffect {
        statements::lone_effect(statement)
    }

    fn placeholder(number: usize) -> Cow<'static, str> {
        format!("${number}").into()
    }

    fn advisory_lock(key: u64, wait: Option<Duration>) -> Option<String> {
        let key = key.cast_signed();
        Some(match wait {
            Some(_) => format!("SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock({key})) AS taken"),
            None => format!("SELECT pg_try_advisory_xact_lock({key})::int::bigint"),
        })
    }

    /// The SELECT that asks for the lock takes the snapshot before it waits. At SERIALIZABLE, what was read
    /// too early is found out at the commit.
    fn snapshot_age(isolation: Isolation) -> SnapshotAge {
        if isolation == Isolation::RepeatableRead { SnapshotAge::Older } else { SnapshotAge::Younger }
    }

    const SAVEPOINTS_HOLD_ADVISORY_LOCKS: bool = true;

    fn creation(schema: &'static str) -> String {
        schema::creation(schema)
    }

    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BYTEA PRIMARY KEY,
        recorded_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )";

    fn marker(marker: CommitMarker) -> Result<String, Failure> {
        Ok(match marker {
            CommitMarker::Operation(id) => {
                format!("INSERT INTO atomically_operation (id) VALUES ('\\x{id:032x}')")
            }
            CommitMarker::TransactionStatus => {
                format!(
                    "SELECT unnest(ARRAY[pg_current_xact_id()::text::bigint, {INCARNATION}]) FROM pg_control_checkpoint()"
                )
            }
        })
    }

    fn ask_for_status(answered: &[i64]) -> Option<String> {
        let [number, started, timeline, checkpoint] = answered else { return None };
        Some(format!(
            "SELECT unnest(ARRAY[\
                 CASE pg_xact_status('{number}') WHEN 'committed' THEN {} WHEN 'aborted' THEN {} \
                 WHEN 'in progress' THEN {} ELSE 0 END, \
                 CASE WHEN ARRAY[{INCARNATION}] = ARRAY[{started}, {timeline}, {checkpoint}]::bigint[] THEN 1 ELSE 0 END\
             ]::bigint[]) FROM pg_control_checkpoint()",
            TransactionStatus::COMMITTED,
            TransactionStatus::ABORTED,
            TransactionStatus::IN_PROGRESS,
        ))
    }

    fn purge_operations(older_than: Duration) -> String {
        let is_old = format!("recorded_at < now() - interval '1 second' * {}", older_than.as_secs());
        format!(
            "DELETE FROM atomically_operation WHERE id = ANY(ARRAY(SELECT id FROM atomically_operation \
             WHERE {is_old} LIMIT 1000 FOR UPDATE SKIP LOCKED)) AND {is_old}"
        )
    }

    const SESSION: Option<&'static str> = Some("SELECT pg_backend_pid()::bigint");

    /// By the locks that are not granted, and not by `pg_stat_activity.wait_event_type`: that is set a moment
    /// later.
    fn lock_waits(sessions: &[i64]) -> Option<LockWaits> {
        let sessions = sessions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let tables_it_writes_to = "SELECT string_agg(DISTINCT held.relation::regclass::text, ', ') FROM pg_locks AS held \
             JOIN pg_class ON pg_class.oid = held.relation AND relkind IN ('r', 'p') \
             WHERE held.pid = waits.pid AND held.mode IN ('RowShareLock', 'RowExclusiveLock')";
        // Who waits for a row waits for the transaction that holds it.
        let sql = format!(
            "SELECT concat_ws(' ', pid, '{{' || array_to_string(pg_blocking_pids(pid), ',') || '}}', \
             CASE locktype WHEN 'transactionid' THEN 'a row of ' || coalesce(({tables_it_writes_to}), '?') \
             WHEN 'tuple' THEN 'a row of ' || relation::regclass::text \
             ELSE concat_ws(' ', locktype, relation::regclass::text) END, '(' || mode || ')') \
             FROM pg_locks AS waits WHERE NOT granted AND pid IN ({sessions})"
        );
        Some(LockWaits { sql, read: debug::lock_wait })
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

    fn shown_arguments(arguments: &str) -> Option<Vec<String>> {
        debug::arguments(arguments)
    }

    const INTEGER: &'static str = "BIGINT";

    fn add_to_rows<K: Key<Self>>(
        target: Target,
        changes: &[(&K, i64)],
    ) -> Result<WatchedQuery<Self>, BoxDynError> {
        add_listed(target, changes)
    }

    fn add_in_one_statement<K: Key<Self>>(target: Target) -> Option<Box<dyn AddInOneStatement<Self, K>>> {
        single_statement::statement(target)
    }

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

    /// SQLSTATEs after [PostgreSQL's list](https://www.postgresql.org/docs/current/errcodes-appendix.html);
    /// what may be run again after its [chapter on serialization
    /// failures](https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
    fn classify(report: &ServerReport<'_>) -> Failure {
        use ConstraintKind::{Check, Exclusion, ForeignKey, NotNull, Unique};
        use FailureKind as Kind;

        let (kind, retryable) = match report.sqlstate {
            // 72000 is "snapshot too old"; CR000 is what old versions of CockroachDB say for 40001.
            "40001" | "40000" | "72000" | "CR000" => (Kind::SerializationFailure, true),
            "40P01" => (Kind::Deadlock, true),
            // NOWAIT and lock_timeout share the code: what was sent tells them apart.
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
            // What pgbouncer says when it has lost its server, or has none.
            "08P01" if report.fatal => (Kind::Unavailable, true),
            "25006" => (Kind::ReadOnly, true),
            // 3B001: a savepoint that is gone took the transaction with it.
            "25P02" | "3B001" => (Kind::Aborted, false),
            "23505" => return violation(report, Unique),
            "23P01" => return violation(report, Exclusion),
            "23503" | "23001" => return violation(report, ForeignKey),
            "23502" => return violation(report, NotNull),
            "23514" | "44000" => return violation(report, Check),
            // Behind a pooler that mixes up the names of statements, each further attempt might run another
            // client's.
            _ if is_outdated(report) => (Kind::Other, !matches!(report.sqlstate, "26000" | "42P05")),
            _ => (Kind::Other, false),
        };
        let deadlock =
            if kind == Kind::Deadlock { deadlock::report(report.detail, report.context) } else { None };
        Failure::new(kind, said::said(report))
            .with_code(report.sqlstate)
            .with_deadlock(deadlock)
            .retryable(retryable)
            .spoiling_session(report.fatal || is_outdated(report))
            // A session that was idle in its transaction for too long had read no COMMIT.
            .definite(report.sqlstate == "25P03" || (!report.fatal && is_definite(report.sqlstate)))
    }

    fn after(_failure: &Failure) -> Survival {
        Survival::Over
    }

    fn address(options: &PgConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

/// What the session, or the driver's memory of it, knows of the schema or of its prepared statements is not
/// true any more: each further use of it fails the same way, and another session learns it anew.
///
/// - `0A000` is a plan that outlived a change of its table. The message comes in the server's language, the
///   name of the function that raised it does not.
/// - `26000` and `42P05` are about a statement of the driver's that somebody has removed from the session, or
///   left in it. About any other name they are the caller's mistake.
/// - `XX000` is a type that was dropped and created anew under the number that the driver remembers.
fn is_outdated(report: &ServerReport<'_>) -> bool {
    let says = |text: &str| report.message.contains(text);
    match report.sqlstate {
        "0A000" => report.routine == Some("RevalidateCachedQuery") || says("cached plan must not change"),
        "26000" | "42P05" => says("\"sqlx_s_"),
        "XX000" => says("cache lookup failed for type"),
        _ => false,
    }
}

/// What changes when numbers of transactions may have been handed out again: the start of the server, its
/// timeline, and its last checkpoint, which a recovery writes before anything else.
const INCARNATION: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, timeline_id::bigint, \
                           (checkpoint_lsn - '0/0')::bigint";

fn violation(report: &ServerReport<'_>, kind: ConstraintKind) -> Failure {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let columns = match kind {
        ConstraintKind::NotNull => report.column.into_iter().map(str::to_owned).collect(),
        // "Key (a, b)=(1, 2) already exists.", in whatever language.
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
    Failure::new(FailureKind::Constraint, said::said(report))
        .with_code(report.sqlstate)
        .with_constraint(Some(constraint))
        .definite(!report.fatal)
}

/// Errors of the statement itself: the transaction was aborted by them. What comes from the server's
/// surroundings (classes 08, 53, 57, 58, XX) may have struck after the commit was made durable.
fn is_definite(sqlstate: &str) -> bool {
    match sqlstate {
        "40003" | "XXA00" => false,
        "57014" => true,
        code => {
            matches!(code.get(..2), Some("40" | "23" | "25" | "22" | "42" | "44" | "55" | "P0" | "0A" | "3B"))
        }
    }
}
