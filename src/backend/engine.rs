//! The product that runs on a server, its version, and what it supports.

use std::fmt;
use std::time::Duration;

use sqlx::{Connection, Database};

use crate::sql_text::Syntax;

mod capability;
mod refusal;
mod support;

pub use capability::{Capability, Support};

/// Identifies the product, the server and the session that a connection belongs to.
#[doc(hidden)]
pub trait Product: Database {
    /// The name by which [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/database/) knows the
    /// database.
    const SYSTEM: &'static str;

    /// The engine, if no server has to be asked for what units depend on.
    const EMBEDDED: Option<Engine> = None;

    /// The query for the server's [`Engine`].
    const ENGINE_QUERY: EngineQuery;

    /// How long the answer is valid. The address of a pool may lead to another server later, which need not
    /// have another version.
    const ENGINE_LIFETIME: Duration;

    /// Returns the version of the server that the driver learned when it connected, in any form; `None` if
    /// the driver does not tell. A connection to a server of another version has another engine.
    fn version_at_connect(_connection: &Self::Connection) -> Option<u32> {
        None
    }

    /// The query for the server's id of the session; `None` if there is no server.
    const SESSION_ID_QUERY: Option<&'static str>;

    /// Returns what these options connect to, without secrets: `127.0.0.1:5432`.
    fn address(options: &ConnectOptions<Self>) -> String;

    /// Whether closing the last connection loses the data, as it does for SQLite in memory.
    fn lives_in_its_connection(_options: &ConnectOptions<Self>) -> bool {
        false
    }
}

type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// The product that runs behind a pool, its version, and what it supports.
///
/// Returned by [`PoolTransactor::engine`](crate::PoolTransactor::engine) and
/// [`Tx::engine`](crate::Tx::engine). The crate finds it out by itself, once for each pool, and every
/// statement of the crate depends on it. What an engine lacks is refused as
/// [`Unsupported`](crate::ErrorKind::Unsupported) before anything is sent. For an unknown product, the crate
/// uses only what all products with the same protocol have.
///
/// ```
/// # use atomically::{Capability, Error, Pessimistic};
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
/// let db = Pessimistic::default().on(&pool);
/// let engine = db.engine().await?;
/// println!("runs on {engine}"); // PostgreSQL 15.20
/// assert!(engine.supports(Capability::SkipLocked).is_yes());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engine {
    pub(crate) product: EngineProduct,
    pub(crate) version: EngineVersion,
    pub(crate) cluster: Option<EngineCluster>,
    /// The protocol, which says what may be expected of an unknown product.
    pub(crate) protocol: Syntax,
    /// Whether the server ends sessions that stay idle in a transaction for too long.
    pub(crate) limits_idling: bool,
    /// The size of the largest statement that the server accepts, in bytes; 0 if unknown.
    pub(crate) max_packet: usize,
}

/// A product that speaks the protocol of PostgreSQL or MySQL, or SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineProduct {
    /// PostgreSQL, and services that run it: Aurora PostgreSQL, AlloyDB, Neon, Supabase.
    PostgreSql,
    /// CockroachDB.
    CockroachDb,
    /// YugabyteDB.
    YugabyteDb,
    /// Amazon Aurora DSQL.
    AuroraDsql,
    /// Google Spanner behind PGAdapter.
    Spanner,
    /// MySQL, and services and builds that run it: Aurora MySQL, Percona Server.
    MySql,
    /// MariaDB.
    MariaDb,
    /// TiDB.
    TiDb,
    /// Vitess, and PlanetScale, which runs it.
    Vitess,
    /// SQLite.
    Sqlite,
    /// Any other product.
    Unknown,
}

/// A cluster of servers, each of which runs the [product](EngineProduct).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineCluster {
    /// Galera, with MariaDB or Percona XtraDB Cluster.
    ///
    /// # Why does it matter?
    ///
    /// A node that aborts a transaction in favour of one from another node reports this in its next response.
    /// If several statements share a packet, the statement after the aborted one still runs, outside of the
    /// transaction, and appears to succeed: 145 of 3 775 acknowledged commits were not stored. Within a
    /// transaction, each statement therefore needs a packet of its own. And because a node may report nothing
    /// at all, transactions run [without
    /// autocommit](crate::guide::engines::galera#what-the-crate-does-about-it).
    Galera,
    /// Group Replication of MySQL. Its conflicts are found at COMMIT.
    GroupReplication,
    /// Citus, an extension of PostgreSQL that distributes tables.
    Citus,
}

/// The version of an [`Engine`]: of the product itself, where it also claims one of PostgreSQL or MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub struct EngineVersion {
    /// The major version.
    pub major: u32,
    /// The minor version.
    pub minor: u32,
    /// The patch level; 0 if the product has none, as PostgreSQL.
    pub patch: u32,
}

/// Queries a server for its [`Engine`], outside of any transaction.
#[doc(hidden)]
#[derive(Debug)]
pub struct EngineQuery {
    /// One or more statements, sent as one text.
    pub sql: &'static str,
    /// A statement that more products understand, sent if the server has refused the others.
    pub fallback: &'static str,
    /// Reads the last column of each row, and the address of the server. There are no rows if the server has
    /// refused both.
    pub read: fn(&[String], address: &str) -> Engine,
}

impl Engine {
    pub(crate) const fn new(protocol: Syntax, product: EngineProduct, version: EngineVersion) -> Self {
        Self { product, version, cluster: None, protocol, limits_idling: false, max_packet: 0 }
    }

    /// Returns the product.
    #[must_use]
    pub const fn product(&self) -> EngineProduct {
        self.product
    }

    /// Returns the version of the product; 0.0.0 if it is not known.
    #[must_use]
    pub const fn version(&self) -> EngineVersion {
        self.version
    }

    /// Returns the kind of cluster that the server is a node of; `None` for a single server, and for a
    /// product that is always a cluster.
    #[must_use]
    pub const fn cluster(&self) -> Option<EngineCluster> {
        self.cluster
    }

    /// Returns whether the engine supports a capability.
    #[must_use]
    pub fn supports(&self, capability: Capability) -> Support {
        support::support(self, capability)
    }

    /// Whether the engine is known to support a capability: for what the crate does on its own accord.
    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.supports(capability) == Support::Yes
    }

    /// Whether the engine is known to lack a capability: for what the caller has requested.
    pub(crate) fn lacks(&self, capability: Capability) -> bool {
        self.supports(capability) == Support::No
    }

    /// Returns the name of the product, and of the cluster if that is what limits it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (self.cluster, self.product) {
            (Some(EngineCluster::Galera), _) => "Galera",
            (Some(EngineCluster::GroupReplication), _) => "MySQL Group Replication",
            (Some(EngineCluster::Citus), _) => "Citus",
            (None, EngineProduct::PostgreSql) => "PostgreSQL",
            (None, EngineProduct::CockroachDb) => "CockroachDB",
            (None, EngineProduct::YugabyteDb) => "YugabyteDB",
            (None, EngineProduct::AuroraDsql) => "Aurora DSQL",
            (None, EngineProduct::Spanner) => "Spanner",
            (None, EngineProduct::MySql) => "MySQL",
            (None, EngineProduct::MariaDb) => "MariaDB",
            (None, EngineProduct::TiDb) => "TiDB",
            (None, EngineProduct::Vitess) => "Vitess",
            (None, EngineProduct::Sqlite) => "SQLite",
            (None, EngineProduct::Unknown) => "this product",
        }
    }

    pub(crate) fn is_galera(&self) -> bool {
        self.cluster == Some(EngineCluster::Galera)
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.product == EngineProduct::MariaDb
    }
}

/// Displays the product and its version: `MariaDB 10.11.14 (Galera)`.
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self { cluster: None, ..*self }.name())?;
        if self.version != EngineVersion::default() {
            write!(f, " {}", self.version)?;
        }
        if self.cluster.is_some() {
            write!(f, " ({})", self.name())?;
        }
        Ok(())
    }
}

impl EngineVersion {
    /// Creates a version, to compare it with that of an engine.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads the first number of a text, with up to two further parts: `v7.5.1-rc` is 7.5.1.
    pub(crate) fn read(text: &str) -> Self {
        let begin = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
        let text = text.get(begin..).unwrap_or_default();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = text.get(..end).unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        Self::new(part(), part(), part())
    }
}

/// Displays `15.20`, and `10.11.14` where there is a patch level.
impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}")?;
        if *patch > 0 { write!(f, ".{patch}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_first_number_of_a_text() {
        for (text, version) in [
            ("15.20 (Debian 15.20-0+deb12u1)", (15, 20, 0)),
            ("v7.5.1-rc", (7, 5, 1)),
            ("10.11.14-MariaDB-0+deb12u2", (10, 11, 14)),
            ("18beta1", (18, 0, 0)),
            ("16", (16, 0, 0)),
            ("none", (0, 0, 0)),
            ("99999999999.1", (0, 1, 0)),
        ] {
            let (major, minor, patch) = version;
            assert_eq!(EngineVersion::read(text), EngineVersion::new(major, minor, patch), "{text}");
        }
    }

    #[test]
    fn an_engine_is_displayed_with_its_version_and_cluster() {
        let version = EngineVersion::new(10, 11, 14);
        let mut engine = Engine::new(Syntax::MySql, EngineProduct::MariaDb, version);
        assert_eq!(engine.to_string(), "MariaDB 10.11.14");
        engine.cluster = Some(EngineCluster::Galera);
        assert_eq!(engine.to_string(), "MariaDB 10.11.14 (Galera)");
        let unknown = Engine::new(Syntax::Postgres, EngineProduct::Unknown, EngineVersion::default());
        assert_eq!(unknown.to_string(), "this product");
    }
}
