//! How transactions begin and end.

use std::borrow::Cow;

use sqlx::Postgres;

use super::{limits, local_settings};
use crate::backend::engine::{Capability, Engine, EngineCluster, EngineProduct};
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

    /// Spanner and Aurora DSQL have one level each, and refuse the name of any other. Citus sends the
    /// settings of a transaction to its workers only if it is told to.
    fn opening(engine: &Engine, plan: &Plan, limits: &Limits) -> String {
        let reads_only = plan.access == Access::ReadOnly;
        let mut sql = String::with_capacity(OPENING_BYTES);
        sql.push_str("BEGIN");
        match engine.product {
            EngineProduct::Spanner if reads_only => sql.push_str("; SET TRANSACTION READ ONLY"),
            EngineProduct::Spanner => {}
            EngineProduct::AuroraDsql if reads_only => sql.push_str(" READ ONLY"),
            EngineProduct::AuroraDsql => {}
            _ => {
                sql.push_str(" ISOLATION LEVEL ");
                sql.push_str(plan.isolation.as_sql());
                if reads_only {
                    sql.push_str(" READ ONLY");
                }
            }
        }
        if plan.deferrable {
            sql.push_str(" DEFERRABLE");
        }
        if engine.cluster == Some(EngineCluster::Citus) {
            sql.push_str("; SET LOCAL citus.propagate_set_commands = 'local'");
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

    /// 25001: the open transaction has already read, so its isolation level can no longer be set. 25P02: it
    /// has failed.
    fn found_open_transaction(failure: &Failure) -> bool {
        matches!(failure.code(), Some("25001" | "25P02"))
    }

    /// A hot standby refuses SERIALIZABLE as an unsupported feature, with a message in the server's
    /// language.
    fn read_only_query(failure: &Failure) -> Option<&'static str> {
        (failure.code() == Some("0A000")).then_some("SELECT pg_is_in_recovery()::int::bigint")
    }

    /// It is `on` on a standby, and where the setting's default is.
    const READ_ONLY_QUERY: Option<&'static str> =
        Some("SELECT (current_setting('transaction_read_only') = 'on')::int::bigint");

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
    /// driver exposes neither. SAVEPOINT fails in both cases. Where there are no savepoints, SELECT fails in
    /// an aborted transaction.
    fn commit(closing: &Closing) -> CommitSql {
        if closing.unwatched && closing.engine.lacks(Capability::Savepoints) {
            CommitSql { sql: "SELECT 1; COMMIT".into(), before_commit: 1, ..CommitSql::default() }
        } else if closing.unwatched {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::EngineVersion;
    use crate::sql_text::Syntax;

    fn engine(product: EngineProduct) -> Engine {
        Engine::new(Syntax::Postgres, product, EngineVersion::new(25, 1, 0))
    }

    /// Returns the opening under a deadline of ten seconds.
    fn opening(engine: Engine, plan: Plan) -> String {
        let limits = Limits { left: Some(Duration::from_secs(10)), ..Limits::default() };
        Postgres::opening(&engine, &plan, &engine.limits(limits))
    }

    #[test]
    fn a_transaction_is_opened_as_the_engine_allows() {
        use EngineProduct::{AuroraDsql, CockroachDb, PostgreSql, Spanner, Unknown, YugabyteDb};

        const LIMITS: &str =
            "; SHOW lock_timeout; SET LOCAL lock_timeout = 9900; SET LOCAL statement_timeout = 10000";
        let plan = Plan::new(Isolation::ReadCommitted);
        for product in [PostgreSql, CockroachDb, YugabyteDb] {
            let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
            assert_eq!(opening(engine(product), plan), format!("{begin}{LIMITS}"), "{product:?}");
        }
        let citus = Engine { cluster: Some(EngineCluster::Citus), ..engine(PostgreSql) };
        let propagate = "; SET LOCAL citus.propagate_set_commands = 'local'";
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        assert_eq!(opening(citus, plan), format!("{begin}{propagate}{LIMITS}"));
        let read_only = Plan { access: Access::ReadOnly, ..plan };
        assert_eq!(opening(engine(AuroraDsql), plan), "BEGIN");
        assert_eq!(opening(engine(AuroraDsql), read_only), "BEGIN READ ONLY");
        assert_eq!(opening(engine(Spanner), plan), "BEGIN");
        assert_eq!(opening(engine(Spanner), read_only), "BEGIN; SET TRANSACTION READ ONLY");
        assert_eq!(opening(engine(Unknown), read_only), format!("{begin} READ ONLY"));
    }

    #[test]
    fn an_unwatched_transaction_is_checked_without_savepoints_where_there_are_none() {
        let commit = |product| {
            let closing =
                Closing::new(engine(product), Plan::new(Isolation::ReadCommitted), Limits::default());
            Postgres::commit(&Closing { unwatched: true, ..closing }).sql
        };
        assert_eq!(commit(EngineProduct::PostgreSql), "SAVEPOINT atomically_guard; COMMIT");
        assert_eq!(commit(EngineProduct::AuroraDsql), "SELECT 1; COMMIT");
    }
}
