//! Identifies MySQL, MariaDB, and the products that speak their protocol.

use std::time::Duration;

use sqlx::MySql;
use sqlx::mysql::MySqlConnectOptions;

use crate::backend::engine::{Engine, EngineCluster, EngineProduct, EngineQuery, EngineVersion, Product};
use crate::sql_text::Syntax;

impl Product for MySql {
    const SYSTEM: &'static str = "mysql";

    /// Uses `SHOW` and not `@@wsrep_on`, which servers without the variable refuse.
    const ENGINE_QUERY: EngineQuery = EngineQuery {
        sql: "SELECT CONCAT_WS('|', VERSION(), @@max_allowed_packet, @@version_comment \
              /*M! , @@idle_transaction_timeout*/); \
              SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'group_replication_group_name')",
        read: engine,
    };

    /// A server may join a cluster at any time, and one query every five seconds costs almost nothing.
    const ENGINE_LIFETIME: Duration = Duration::from_secs(5);

    const SESSION_ID_QUERY: Option<&'static str> = Some("SELECT CAST(CONNECTION_ID() AS SIGNED)");

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

fn engine(answers: &[String], _address: &str) -> Engine {
    let mut server = answers.first().map_or("", String::as_str).split('|');
    let mut next = || server.next().unwrap_or_default();
    let (version, max_packet, comment) = (next(), next().parse().unwrap_or(0), next());
    let limits_idling = !matches!(next(), "" | "0");
    let (product, version) = product(version, comment);
    // A group name is a UUID.
    let variables = answers.get(1..).unwrap_or_default();
    let cluster = if variables.iter().any(|value| value == "ON") {
        Some(EngineCluster::Galera)
    } else if variables.iter().any(|value| value.contains('-')) {
        Some(EngineCluster::GroupReplication)
    } else {
        None
    };
    Engine { cluster, limits_idling, max_packet, ..Engine::new(Syntax::MySql, product, version) }
}

fn product(version: &str, comment: &str) -> (EngineProduct, EngineVersion) {
    use EngineProduct::{MariaDb, MySql, TiDb, Unknown, Vitess};

    let has = |name: &str| [version, comment].iter().any(|text| text.to_ascii_lowercase().contains(name));
    if let Some((_, own)) = version.split_once("-TiDB-") {
        return (TiDb, EngineVersion::read(own));
    }
    let product = if has("vitess") || has("planetscale") {
        Vitess
    } else if has("mariadb") {
        MariaDb
    } else if version.is_empty() || OTHERS.iter().any(|name| has(name)) {
        Unknown
    } else {
        MySql
    };
    // Replication of MySQL needed a version that begins with 5.
    (product, EngineVersion::read(version.strip_prefix("5.5.5-").unwrap_or(version)))
}

/// Names in the versions of products that speak the protocol of MySQL and are not among the known ones.
const OTHERS: [&str; 8] =
    ["oceanbase", "singlestore", "memsql", "dolt", "starrocks", "doris", "databend", "polardb-x"];
