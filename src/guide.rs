//! The guide: choosing a strategy, what can go wrong, and running it in production.

#[doc = include_str!("guide/migrating.md")]
pub mod migrating {}

#[doc = include_str!("guide/axum_service.md")]
pub mod axum_service {}

#[doc = include_str!("guide/reading.md")]
pub mod reading {}

#[doc = include_str!("guide/choosing.md")]
pub mod choosing {}

#[doc = include_str!("guide/contention.md")]
pub mod contention {}

#[doc = include_str!("guide/anomalies.md")]
pub mod anomalies {}

#[doc = include_str!("guide/isolation.md")]
pub mod isolation {}

#[doc = include_str!("guide/versions.md")]
pub mod versions {}

#[doc = include_str!("guide/units.md")]
pub mod units {}

#[doc = include_str!("guide/coalescing.md")]
pub mod coalescing {}

#[doc = include_str!("guide/distance.md")]
pub mod distance {}

#[doc = include_str!("guide/failures.md")]
pub mod failures {}

#[doc = include_str!("guide/durability.md")]
pub mod durability {}

#[cfg(feature = "idempotency")]
#[doc = include_str!("guide/idempotency.md")]
pub mod idempotency {}

#[doc = include_str!("guide/several_databases.md")]
pub mod several_databases {}

#[cfg(feature = "testing")]
#[doc = include_str!("guide/testing_services.md")]
pub mod testing_services {}

#[cfg(feature = "testing")]
#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[cfg(feature = "testing")]
#[doc = include_str!("guide/advisor.md")]
pub mod advisor {}

#[cfg(feature = "testing")]
#[doc = include_str!("guide/histories.md")]
pub mod histories {}

#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/engines.md")]
pub mod engines {
    #[doc = include_str!("guide/engines/postgresql.md")]
    pub mod postgresql {}

    #[doc = include_str!("guide/engines/pgbouncer.md")]
    pub mod pgbouncer {}

    #[doc = include_str!("guide/engines/mysql.md")]
    pub mod mysql {}

    #[doc = include_str!("guide/engines/mariadb.md")]
    pub mod mariadb {}

    #[doc = include_str!("guide/engines/galera.md")]
    pub mod galera {}

    #[doc = include_str!("guide/engines/group_replication.md")]
    pub mod group_replication {}

    #[doc = include_str!("guide/engines/sqlite.md")]
    pub mod sqlite {}

    #[doc = include_str!("guide/engines/cockroachdb.md")]
    pub mod cockroachdb {}

    #[doc = include_str!("guide/engines/yugabytedb.md")]
    pub mod yugabytedb {}

    #[doc = include_str!("guide/engines/aurora_dsql.md")]
    pub mod aurora_dsql {}

    #[doc = include_str!("guide/engines/spanner.md")]
    pub mod spanner {}

    #[doc = include_str!("guide/engines/citus.md")]
    pub mod citus {}

    #[doc = include_str!("guide/engines/tidb.md")]
    pub mod tidb {}

    #[doc = include_str!("guide/engines/vitess.md")]
    pub mod vitess {}
}

#[doc = include_str!("guide/addresses.md")]
pub mod addresses {}

#[doc = include_str!("guide/schema.md")]
#[doc = "# PostgreSQL\n\n```sql"]
#[doc = include_str!("backend/postgres/schema.sql")]
#[doc = "```\n\n# MySQL and MariaDB\n\n```sql"]
#[doc = include_str!("backend/mysql/schema.sql")]
#[doc = "```\n\n# SQLite\n\n```sql"]
#[doc = include_str!("backend/sqlite/schema.sql")]
#[doc = "```"]
pub mod schema {}

#[doc = include_str!("guide/monitoring.md")]
pub mod monitoring {}

#[cfg(feature = "queue")]
#[doc = include_str!("guide/queue.md")]
pub mod queue {}

#[cfg(feature = "lease")]
#[doc = include_str!("guide/leases.md")]
pub mod leases {}

#[cfg(feature = "holds")]
#[doc = include_str!("guide/holds.md")]
pub mod holds {}

#[cfg(feature = "sea-orm")]
#[doc = include_str!("guide/sea_orm.md")]
pub mod sea_orm {}

#[doc = include_str!("guide/architecture.md")]
pub mod architecture {}
