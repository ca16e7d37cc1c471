//! What each engine supports.
//!
//! The products that cannot be run by the tests of this crate are described by their documentation:
//! [CockroachDB](https://www.cockroachlabs.com/docs/stable/postgresql-compatibility),
//! [YugabyteDB](https://docs.yugabyte.com/stable/explore/transactions/),
//! [Aurora DSQL](https://docs.aws.amazon.com/aurora-dsql/latest/userguide/),
//! [Spanner](https://github.com/GoogleCloudPlatform/pgadapter),
//! [Citus](https://docs.citusdata.com/en/stable/develop/reference_workarounds.html),
//! [TiDB](https://docs.pingcap.com/tidb/stable/mysql-compatibility),
//! [Vitess](https://vitess.io/docs/reference/compatibility/mysql-compatibility/).

use super::{Capability, Engine, EngineCluster, EngineProduct, EngineVersion, Support};
use crate::sql_text::Syntax;

/// Returns whether the engine supports the capability.
pub(super) fn support(engine: &Engine, capability: Capability) -> Support {
    use EngineProduct as P;

    match (engine.product, engine.protocol) {
        (P::PostgreSql, _) => postgresql(engine, capability),
        (P::CockroachDb, _) => cockroachdb(engine.version, capability),
        (P::YugabyteDb, _) => yugabytedb(capability),
        (P::AuroraDsql, _) => yes_or_no(aurora_dsql(capability)),
        (P::Spanner, _) => yes_or_no(spanner(capability)),
        (P::MySql | P::MariaDb, _) => yes_or_no(mysql(engine, capability)),
        (P::TiDb, _) => yes_or_no(tidb(capability)),
        (P::Vitess, _) => yes_or_no(vitess(capability)),
        (P::Sqlite, _) | (P::Unknown, Syntax::Sqlite) => yes_or_no(sqlite(capability)),
        (P::Unknown, Syntax::Postgres) => unknown_postgres(capability),
        (P::Unknown, Syntax::MySql) => unknown_mysql(capability),
    }
}

const fn yes_or_no(is_supported: bool) -> Support {
    if is_supported { Support::Yes } else { Support::No }
}

/// Citus supports everything for rows of one shard, and for tables that are not distributed.
fn postgresql(engine: &Engine, capability: Capability) -> Support {
    use Capability as C;

    let is_limited_by_citus = match capability {
        // A statement that would lock rows of several shards is refused.
        C::LocksOfManyRows => true,
        // The workers have transactions of their own, each with a snapshot and an id of its own.
        C::SnapshotReads | C::Serializable | C::DeferrableTransactions | C::TransactionStatus => true,
        // It says where a row is on its shard.
        C::Ctid => true,
        _ => false,
    };
    yes_or_no(engine.cluster != Some(EngineCluster::Citus) || !is_limited_by_citus)
}

fn cockroachdb(version: EngineVersion, capability: Capability) -> Support {
    use Capability as C;

    yes_or_no(match capability {
        C::RowLocks | C::LocksOfManyRows | C::LocksOfOneTable | C::NoWait => true,
        C::SkipLocked => version >= EngineVersion::new(22, 2, 0),
        C::ShareLocks => version >= EngineVersion::new(23, 2, 0),
        // Accepted, and the same as FOR UPDATE and FOR SHARE.
        C::NoKeyUpdateLocks | C::KeyShareLocks => false,
        C::LocksCrossNodes | C::UniqueKeysFence | C::Savepoints | C::Serializable => true,
        // Older versions upgrade them to SERIALIZABLE.
        C::ReadCommitted | C::SnapshotReads => version >= EngineVersion::new(24, 1, 0),
        C::ReadOnlyTransactions | C::ServerLimits | C::LocalSettings => true,
        C::SeveralStatementsInOnePacket => true,
        // Versions before 26 ignore or lack them.
        C::AdvisoryLocks if version >= EngineVersion::new(26, 0, 0) => return Support::Unknown,
        // `autocommit_before_ddl` is on since 25.1: data definition commits what preceded it. Before, it
        // could fail after COMMIT.
        C::TransactionalDdl => false,
        C::AdvisoryLocks | C::DeferrableTransactions | C::TransactionStatus | C::ListenNotify => false,
        C::Ctid | C::StorageParameters | C::PlannerSettings => false,
    })
}

fn yugabytedb(capability: Capability) -> Support {
    use Capability as C;

    match capability {
        // Off by default.
        C::AdvisoryLocks | C::ListenNotify => Support::Unknown,
        // Data definition has a transaction of its own.
        C::TransactionalDdl => Support::No,
        C::Ctid | C::StorageParameters | C::TransactionStatus => Support::No,
        _ => Support::Yes,
    }
}

fn aurora_dsql(capability: Capability) -> bool {
    use Capability as C;

    // Nothing waits. `FOR UPDATE` makes the commit check the rows, which are named by their keys; unique keys
    // are checked at the commit too.
    matches!(
        capability,
        C::RowLocks
            | C::KeyShareLocks
            | C::SnapshotReads
            | C::ReadOnlyTransactions
            | C::SeveralStatementsInOnePacket
    )
}

fn spanner(capability: Capability) -> bool {
    use Capability as C;

    matches!(
        capability,
        C::RowLocks
            | C::LocksOfManyRows
            | C::LocksCrossNodes
            | C::Serializable
            | C::ReadOnlyTransactions
            | C::Savepoints
            | C::SeveralStatementsInOnePacket
    )
}

fn mysql(engine: &Engine, capability: Capability) -> bool {
    use Capability as C;

    let (is_mariadb, version, cluster) = (engine.is_mariadb(), engine.version, engine.cluster);
    let since = |mysql: (u32, u32), mariadb: (u32, u32)| {
        let (major, minor) = if is_mariadb { mariadb } else { mysql };
        version >= EngineVersion::new(major, minor, 0)
    };
    match capability {
        C::RowLocks | C::LocksOfManyRows | C::ShareLocks | C::AdvisoryLocks | C::Savepoints => true,
        C::ReadCommitted | C::SnapshotReads | C::ReadOnlyTransactions | C::ServerLimits => true,
        C::SkipLocked => since((8, 0), (10, 6)),
        C::NoWait => since((8, 0), (10, 3)),
        C::LocksOfOneTable => !is_mariadb && since((8, 0), (0, 0)),
        C::LocksCrossNodes | C::UniqueKeysFence => cluster.is_none(),
        // Between nodes, Galera detects conflicts of writes only. Group Replication refuses the level.
        C::Serializable => cluster.is_none(),
        C::SeveralStatementsInOnePacket => cluster != Some(EngineCluster::Galera),
        C::NoKeyUpdateLocks
        | C::KeyShareLocks
        | C::DeferrableTransactions
        | C::TransactionalDdl
        | C::LocalSettings
        | C::TransactionStatus
        | C::ListenNotify
        | C::Ctid
        | C::StorageParameters
        | C::PlannerSettings => false,
    }
}

fn tidb(capability: Capability) -> bool {
    use Capability as C;

    // `LOCK IN SHARE MODE` is refused, or locks nothing, depending on a setting.
    matches!(
        capability,
        C::RowLocks
            | C::LocksOfManyRows
            | C::LocksOfOneTable
            | C::NoWait
            | C::AdvisoryLocks
            | C::LocksCrossNodes
            | C::UniqueKeysFence
            | C::Savepoints
            | C::ReadCommitted
            | C::SnapshotReads
            | C::ServerLimits
            | C::SeveralStatementsInOnePacket
    )
}

fn vitess(capability: Capability) -> bool {
    use Capability as C;

    // Each shard has its own transaction, and `GET_LOCK` and `RELEASE_LOCK` may run on different
    // connections.
    matches!(
        capability,
        C::RowLocks
            | C::LocksOfManyRows
            | C::ShareLocks
            | C::LocksCrossNodes
            | C::UniqueKeysFence
            | C::Savepoints
            | C::ReadCommitted
            | C::SeveralStatementsInOnePacket
    )
}

fn sqlite(capability: Capability) -> bool {
    use Capability as C;

    // One writer at a time locks the whole database.
    matches!(
        capability,
        C::LocksCrossNodes
            | C::UniqueKeysFence
            | C::Savepoints
            | C::SnapshotReads
            | C::Serializable
            | C::ReadOnlyTransactions
            | C::TransactionalDdl
            | C::ServerLimits
            | C::SeveralStatementsInOnePacket
    )
}

/// What every known product with PostgreSQL's protocol has is sent; what some lack is not relied on.
fn unknown_postgres(capability: Capability) -> Support {
    match capability {
        Capability::RowLocks
        | Capability::ReadOnlyTransactions
        | Capability::SeveralStatementsInOnePacket => Support::Yes,
        _ => Support::Unknown,
    }
}

/// What every known product with MySQL's protocol has is sent; what some lack is not relied on.
fn unknown_mysql(capability: Capability) -> Support {
    match capability {
        Capability::RowLocks
        | Capability::LocksOfManyRows
        | Capability::Savepoints
        | Capability::ReadCommitted => Support::Yes,
        Capability::TransactionalDdl => Support::No,
        _ => Support::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(protocol: Syntax, product: EngineProduct, version: (u32, u32)) -> Vec<Capability> {
        let version = EngineVersion::new(version.0, version.1, 0);
        let engine = Engine::new(protocol, product, version);
        Capability::ALL.into_iter().filter(|capability| engine.lacks(*capability)).collect()
    }

    #[test]
    fn postgresql_lacks_nothing_and_citus_what_spans_shards() {
        assert_eq!(lacking(Syntax::Postgres, EngineProduct::PostgreSql, (15, 20)), []);
        let engine = Engine::new(Syntax::Postgres, EngineProduct::PostgreSql, EngineVersion::new(16, 2, 0));
        let citus = Engine { cluster: Some(EngineCluster::Citus), ..engine };
        assert!(citus.lacks(Capability::LocksOfManyRows) && citus.lacks(Capability::Ctid));
        assert!(citus.has(Capability::ServerLimits), "they are propagated to the workers");
    }

    #[test]
    fn clauses_of_mysql_and_mariadb_depend_on_the_version() {
        use EngineProduct::{MariaDb, MySql};

        let lacks =
            |product, version, capability| lacking(Syntax::MySql, product, version).contains(&capability);
        assert!(
            lacks(MySql, (5, 7), Capability::SkipLocked) && !lacks(MySql, (8, 0), Capability::SkipLocked)
        );
        assert!(lacks(MariaDb, (10, 5), Capability::SkipLocked));
        assert!(!lacks(MariaDb, (10, 6), Capability::SkipLocked));
        assert!(lacks(MySql, (5, 7), Capability::NoWait) && !lacks(MariaDb, (10, 5), Capability::NoWait));
        assert!(lacks(MariaDb, (11, 8), Capability::LocksOfOneTable));
        assert!(!lacks(MySql, (9, 7), Capability::LocksOfOneTable));
    }

    #[test]
    fn unique_keys_fence_where_they_are_certain_before_commit() {
        let fences = |protocol, product, cluster| {
            let engine = Engine::new(protocol, product, EngineVersion::new(9, 7, 4));
            Engine { cluster, ..engine }.has(Capability::UniqueKeysFence)
        };
        let (mysql, postgres) = (Syntax::MySql, Syntax::Postgres);
        assert!(fences(postgres, EngineProduct::PostgreSql, None));
        assert!(fences(postgres, EngineProduct::CockroachDb, None));
        assert!(fences(mysql, EngineProduct::MariaDb, None) && fences(mysql, EngineProduct::MySql, None));
        assert!(!fences(mysql, EngineProduct::MariaDb, Some(EngineCluster::Galera)));
        assert!(!fences(mysql, EngineProduct::MySql, Some(EngineCluster::GroupReplication)));
        assert!(!fences(postgres, EngineProduct::AuroraDsql, None), "conflicts surface at COMMIT");
        assert!(
            !fences(mysql, EngineProduct::Unknown, None) && !fences(postgres, EngineProduct::Unknown, None)
        );
    }

    /// What the crate does on its own accord on an unknown product, every known one with its protocol allows.
    #[test]
    fn an_unknown_product_has_what_all_with_its_protocol_have() {
        use EngineProduct as P;

        for (protocol, products) in [
            (
                Syntax::Postgres,
                &[P::PostgreSql, P::CockroachDb, P::YugabyteDb, P::AuroraDsql, P::Spanner][..],
            ),
            (Syntax::MySql, &[P::MySql, P::MariaDb, P::TiDb, P::Vitess][..]),
        ] {
            let unknown = Engine::new(protocol, P::Unknown, EngineVersion::default());
            for capability in Capability::ALL.into_iter().filter(|capability| unknown.has(*capability)) {
                for product in products {
                    let engine = Engine::new(protocol, *product, EngineVersion::new(25, 1, 0));
                    assert!(engine.has(capability), "{product:?}: {capability:?}");
                }
            }
        }
    }
}
