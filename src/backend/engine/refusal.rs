//! Refuses, before anything is sent, what an engine lacks.

use super::{Capability, Engine, EngineProduct};
use crate::failure::Failure;
use crate::isolation::{Access, Isolation};
use crate::local_settings::LocalSettings;
use crate::row_lock::{RowLock, Strength, WaitPolicy};
use crate::strategy::{CommitMarker, Limits, Plan};

impl Engine {
    /// Fails if the engine is known to lack the capability.
    pub(crate) fn require(&self, capability: Capability) -> Result<(), Failure> {
        if !self.lacks(capability) {
            return Ok(());
        }
        Err(Failure::unsupported(self.name(), capability.described()))
    }

    /// Fails if a transaction cannot be opened as the plan and the options request.
    pub(crate) fn check(
        &self,
        plan: &Plan,
        limits: &Limits,
        local: Option<&LocalSettings>,
        marker: Option<CommitMarker>,
    ) -> Result<(), Failure> {
        let has_own_limits = limits.lock.or(limits.statement).or(limits.idle).is_some();
        for (is_requested, capability) in [
            (plan.access == Access::ReadOnly, Capability::ReadOnlyTransactions),
            (plan.deferrable, Capability::DeferrableTransactions),
            (self.refuses(plan.isolation), Capability::Serializable),
            (has_own_limits, Capability::ServerLimits),
            (local.is_some(), Capability::LocalSettings),
            (marker == Some(CommitMarker::TransactionStatus), Capability::TransactionStatus),
        ] {
            if is_requested {
                self.require(capability)?;
            }
        }
        Ok(())
    }

    /// Whether the engine has no level that is at least as strong as this one. On a cluster, a single node
    /// has; what is weaker there holds for the clients of that node.
    fn refuses(&self, isolation: Isolation) -> bool {
        isolation == Isolation::Serializable && self.cluster.is_none()
    }

    /// Returns the limits that are sent to the server. Those that the caller has requested stay, because
    /// [`check`](Self::check) has not refused them.
    pub(crate) fn limits(&self, limits: Limits) -> Limits {
        if self.has(Capability::ServerLimits) { limits } else { Limits { left: None, ..limits } }
    }

    /// Returns the weakest lock of the engine that is at least as strong as this one.
    pub(crate) fn available_lock(&self, lock: RowLock) -> RowLock {
        let strength = match lock.strength {
            Strength::NoKeyUpdate if !self.has(Capability::NoKeyUpdateLocks) => Strength::Update,
            Strength::KeyShare if !self.has(Capability::KeyShareLocks) => Strength::Share,
            strength => strength,
        };
        RowLock { strength, ..lock }
    }

    /// Fails if the engine lacks the lock, or a lock that is at least as strong.
    pub(crate) fn check_lock(&self, lock: RowLock) -> Result<(), Failure> {
        let strength = match self.available_lock(lock).strength {
            Strength::Update | Strength::NoKeyUpdate => Capability::RowLocks,
            Strength::KeyShare => Capability::KeyShareLocks,
            Strength::Share => Capability::ShareLocks,
        };
        self.require(strength)?;
        match lock.wait {
            WaitPolicy::Block => {}
            WaitPolicy::Refuse => self.require(Capability::NoWait)?,
            WaitPolicy::Skip => self.require(Capability::SkipLocked)?,
        }
        if lock.table.is_some() { self.require(Capability::LocksOfOneTable) } else { Ok(()) }
    }

    /// Whether a statement can have settings of its own (`SET STATEMENT … FOR`).
    #[cfg(feature = "idempotency")]
    pub(crate) fn sets_for_one_statement(&self) -> bool {
        self.is_mariadb()
    }

    /// Whether one statement can add to rows, with a plan that is certain.
    pub(crate) fn adds_in_one_statement(&self) -> bool {
        self.has(Capability::PlannerSettings) && self.has(Capability::ServerLimits)
    }

    /// Whether one statement can find, lock and update jobs, by the addresses of their rows and with a plan
    /// that is certain.
    #[cfg(feature = "queue")]
    pub(crate) fn claims_in_one_statement(&self) -> bool {
        [Capability::Ctid, Capability::SkipLocked, Capability::PlannerSettings, Capability::ServerLimits]
            .into_iter()
            .all(|capability| self.has(capability))
    }

    /// Returns a statement of the crate with lock clauses that the engine has: they wait where others skip,
    /// and are exclusive where others are shared.
    ///
    /// Aurora DSQL locks rows by their keys only. The crate's statements change the rows that they have
    /// locked, and of two transactions that change the same row, one fails at COMMIT.
    pub(crate) fn in_sql(&self, mut sql: String) -> String {
        if self.has(Capability::SkipLocked) && self.has(Capability::ShareLocks) {
            return sql;
        }
        let mut replace = |clause: &str, other: &str| {
            if sql.contains(clause) {
                sql = sql.replace(clause, other);
            }
        };
        if !self.has(Capability::ShareLocks) {
            replace(" LOCK IN SHARE MODE", " FOR UPDATE");
            replace(" FOR SHARE", " FOR UPDATE");
        }
        if self.product == EngineProduct::AuroraDsql {
            replace(" FOR UPDATE SKIP LOCKED", "");
            replace(" FOR UPDATE", "");
        } else if !self.has(Capability::SkipLocked) {
            replace(" SKIP LOCKED", "");
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::engine::{EngineCluster, EngineVersion};
    use crate::sql_text::Syntax;

    fn engine(product: EngineProduct) -> Engine {
        use EngineProduct as P;

        let protocol = match product {
            P::MySql | P::MariaDb | P::TiDb | P::Vitess => Syntax::MySql,
            P::Sqlite => Syntax::Sqlite,
            _ => Syntax::Postgres,
        };
        Engine::new(protocol, product, EngineVersion::new(26, 3, 0))
    }

    /// Returns the message with which a plan is refused.
    fn refused(engine: Engine, plan: Plan, limits: Limits) -> Option<String> {
        engine.check(&plan, &limits, None, None).err().map(|failure| failure.message().to_owned())
    }

    #[test]
    fn a_level_that_the_engine_lacks_is_refused_with_its_name() {
        let serializable = |engine| refused(engine, Plan::new(Isolation::Serializable), Limits::default());
        assert_eq!(serializable(engine(EngineProduct::TiDb)).as_deref(), Some("TiDB has no SERIALIZABLE"));
        assert_eq!(
            serializable(engine(EngineProduct::AuroraDsql)).as_deref(),
            Some("Aurora DSQL has no SERIALIZABLE")
        );
        for product in [EngineProduct::PostgreSql, EngineProduct::CockroachDb, EngineProduct::Spanner] {
            assert_eq!(serializable(engine(product)), None, "{product:?}");
        }
        let galera = Engine { cluster: Some(EngineCluster::Galera), ..engine(EngineProduct::MariaDb) };
        assert_eq!(serializable(galera), None, "it holds for the clients of one node");
        assert!(galera.lacks(Capability::Serializable));
    }

    #[test]
    fn read_only_and_deferrable_transactions_are_refused_where_there_are_none() {
        let read_only = Plan { access: Access::ReadOnly, ..Plan::new(Isolation::ReadCommitted) };
        let deferrable = Plan { deferrable: true, ..read_only };
        assert_eq!(
            refused(engine(EngineProduct::TiDb), read_only, Limits::default()).as_deref(),
            Some("TiDB has no read-only transactions")
        );
        assert_eq!(refused(engine(EngineProduct::CockroachDb), read_only, Limits::default()), None);
        assert_eq!(
            refused(engine(EngineProduct::CockroachDb), deferrable, Limits::default()).as_deref(),
            Some("CockroachDB has no deferrable transactions")
        );
    }

    #[test]
    fn a_requested_limit_is_refused_and_a_derived_one_is_left_to_the_client() {
        let (second, plan) = (Some(Duration::from_secs(1)), Plan::new(Isolation::ReadCommitted));
        let requested = Limits { lock: second, left: second, ..Limits::default() };
        let derived = Limits { left: second, ..Limits::default() };
        for product in [EngineProduct::AuroraDsql, EngineProduct::Spanner, EngineProduct::Vitess] {
            let engine = engine(product);
            assert!(refused(engine, plan, requested).is_some(), "{product:?}");
            assert_eq!(refused(engine, plan, derived), None, "{product:?}");
            assert_eq!(engine.limits(derived).left, None, "{product:?}");
        }
        let unknown = engine(EngineProduct::Unknown);
        assert_eq!(refused(unknown, plan, requested), None, "the server answers");
        assert_eq!(unknown.limits(requested).on_locks(), second);
        assert_eq!(unknown.limits(derived).on_locks(), None);
        assert_eq!(engine(EngineProduct::PostgreSql).limits(derived).on_locks(), second);
    }

    #[test]
    fn a_status_that_the_engine_does_not_keep_is_refused() {
        let plan = Plan::new(Isolation::ReadCommitted);
        let marker = Some(CommitMarker::TransactionStatus);
        let check = |product| engine(product).check(&plan, &Limits::default(), None, marker);
        assert!(check(EngineProduct::PostgreSql).is_ok());
        let refused = check(EngineProduct::CockroachDb).expect_err("refused");
        assert_eq!(refused.message(), "CockroachDB has no record of the status of ended transactions");
    }

    #[test]
    fn a_lock_that_the_engine_lacks_is_refused() {
        let refused = |engine: Engine, lock: RowLock| {
            engine.check_lock(lock).err().map(|failure| failure.message().to_owned())
        };
        let skip = RowLock::UPDATE.skip_locked();
        for (product, lock, message) in [
            (EngineProduct::TiDb, RowLock::SHARE, Some("TiDB has no shared row locks")),
            (EngineProduct::TiDb, RowLock::KEY_SHARE, Some("TiDB has no shared row locks")),
            (EngineProduct::TiDb, skip, Some("TiDB has no SKIP LOCKED")),
            (EngineProduct::TiDb, RowLock::UPDATE.nowait(), None),
            (EngineProduct::Vitess, skip, Some("Vitess has no SKIP LOCKED")),
            (EngineProduct::MariaDb, skip, None),
            (
                EngineProduct::MariaDb,
                RowLock::UPDATE.of("event"),
                Some("MariaDB has no row locks on one table of several (FOR UPDATE OF)"),
            ),
            (EngineProduct::MySql, RowLock::UPDATE.of("event"), None),
            (EngineProduct::AuroraDsql, RowLock::NO_KEY_UPDATE, None),
            (EngineProduct::AuroraDsql, RowLock::KEY_SHARE, None),
            (EngineProduct::AuroraDsql, RowLock::SHARE, Some("Aurora DSQL has no shared row locks")),
            (EngineProduct::AuroraDsql, RowLock::UPDATE.nowait(), Some("Aurora DSQL has no NOWAIT")),
            (EngineProduct::CockroachDb, RowLock::KEY_SHARE, None),
            (EngineProduct::Unknown, skip, None),
        ] {
            assert_eq!(refused(engine(product), lock).as_deref(), message, "{product:?}: {lock:?}");
        }
    }

    #[test]
    fn the_crates_own_statements_get_lock_clauses_that_the_engine_has() {
        let (skip, share) = ("SELECT 1 FROM t FOR UPDATE SKIP LOCKED", "SELECT 1 FROM t LOCK IN SHARE MODE");
        let sql = |product, sql: &str| engine(product).in_sql(sql.to_owned());
        assert_eq!(sql(EngineProduct::MySql, skip), skip);
        assert_eq!(sql(EngineProduct::MariaDb, share), share);
        assert_eq!(sql(EngineProduct::TiDb, skip), "SELECT 1 FROM t FOR UPDATE");
        assert_eq!(sql(EngineProduct::TiDb, share), "SELECT 1 FROM t FOR UPDATE");
        assert_eq!(sql(EngineProduct::Vitess, skip), "SELECT 1 FROM t FOR UPDATE");
        assert_eq!(sql(EngineProduct::Vitess, share), share);
        assert_eq!(sql(EngineProduct::Unknown, skip), "SELECT 1 FROM t FOR UPDATE");
        assert_eq!(sql(EngineProduct::AuroraDsql, skip), "SELECT 1 FROM t");
        assert_eq!(sql(EngineProduct::Spanner, "SELECT 1 FOR SHARE"), "SELECT 1 FOR UPDATE");
    }
}
