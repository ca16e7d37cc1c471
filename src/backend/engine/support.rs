//! What each engine supports.
//!
//! The products that cannot be run by the tests of this crate are described by their documentation:
//! [CockroachDB](https://www.cockroachlabs.com/docs/stable/postgresql-compatibility),
//! [YugabyteDB](https://docs.yugabyte.com/stable/explore/transactions/),
//! [Aurora DSQL](https://docs.aws.amazon.com/aurora-dsql/latest/userguide/working-with-postgresql-compatibility.html),
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
        (P::PostgreSql, _) => yes_or_no(postgresql(engine, capability)),
        (P::CockroachDb, _) => yes_or_no(cockroachdb(engine.version, capability)),
        (P::YugabyteDb, _) => yes_or_no(yugabytedb(capability)),
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

fn postgresql(engine: &Engine, capability: Capability) -> bool {
    use Capability as C;

    let is_citus = engine.cluster == Some(EngineCluster::Citus);
    match capability {
        // A lock that spans several shards is refused, and the limits and settings of a transaction stay
        // on the coordinator.
        C::LocksOfManyRows | C::ServerLimits | C::LocalSettings => !is_citus,
        // The workers have transactions of their own, each with a snapshot of its own.
        C::SnapshotReads | C::Serializable | C::DeferrableTransactions => !is_citus,
        // `ctid` says where a row is on its shard.
        C::Ctid | C::TransactionStatus => !is_citus,
        _ => true,
    }
}

fn cockroachdb(version: EngineVersion, capability: Capability) -> bool {
    use Capability as C;

    match capability {
        C::RowLocks | C::LocksOfManyRows | C::LocksOfOneTable | C::NoWait | C::SkipLocked => true,
        C::ShareLocks => version >= EngineVersion::new(23, 2, 0),
        // Accepted, and the same as FOR UPDATE and FOR SHARE.
        C::NoKeyUpdateLocks | C::KeyShareLocks => false,
        C::LocksCrossNodes | C::UniqueKeysFence | C::Savepoints | C::Serializable => true,
        // Upgraded to SERIALIZABLE unless the cluster is configured otherwise.
        C::ReadCommitted | C::SnapshotReads => version >= EngineVersion::new(24, 1, 0),
        C::ReadOnlyTransactions | C::ServerLimits | C::LocalSettings => true,
        C::SeveralStatementsInOnePacket => true,
        // `autocommit_before_ddl` is on since 25.1: DDL commits what preceded it.
        C::TransactionalDdl => false,
        C::AdvisoryLocks
        | C::DeferrableTransactions
        | C::TransactionStatus
        | C::ListenNotify
        | C::Ctid
        | C::StorageParameters
        | C::PlannerSettings => false,
    }
}

fn yugabytedb(capability: Capability) -> bool {
    use Capability as C;

    !matches!(
        capability,
        C::AdvisoryLocks
            | C::Ctid
            | C::ListenNotify
            | C::StorageParameters
            | C::TransactionalDdl
            | C::TransactionStatus
    )
}

fn aurora_dsql(capability: Capability) -> bool {
    use Capability as C;

    // `FOR UPDATE` does not wait: it makes the commit check the rows. Keys conflict at the commit only.
    matches!(
        capability,
        C::SnapshotReads | C::KeyShareLocks | C::ReadOnlyTransactions | C::SeveralStatementsInOnePacket
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
        Capability::SnapshotReads | Capability::SeveralStatementsInOnePacket => Support::Yes,
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
