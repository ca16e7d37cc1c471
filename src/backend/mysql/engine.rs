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
        fallback: "SELECT CONCAT_WS('|', VERSION(), @@max_allowed_packet)",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answers: &[&str]) -> Engine {
        engine(&answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>(), "db:3306")
    }

    /// The texts are those of the servers' own documentation and bug reports; MariaDB 10.11 and MySQL 9 were
    /// run.
    #[test]
    fn products_are_recognized_by_their_versions() {
        use EngineProduct::{MariaDb, MySql, TiDb, Unknown, Vitess};

        for (text, product, shown) in [
            ("8.0.36|67108864|MySQL Community Server - GPL", MySql, "MySQL 8.0.36"),
            ("8.4.3|67108864|MySQL Community Server - GPL", MySql, "MySQL 8.4.3"),
            ("9.7.4-1|67108864|(Debian)", MySql, "MySQL 9.7.4"),
            ("8.0.36-28|67108864|Percona Server (GPL), Release 28, Revision 47601f19", MySql, "MySQL 8.0.36"),
            ("8.0.32|67108864|Source distribution", MySql, "MySQL 8.0.32"),
            ("10.6.21-MariaDB|16777216|mariadb.org binary distribution|0", MariaDb, "MariaDB 10.6.21"),
            ("10.11.14-MariaDB-0+deb12u2|16777216|Debian 12|0", MariaDb, "MariaDB 10.11.14"),
            ("5.5.5-11.8.2-MariaDB|16777216|Debian n/a|0", MariaDb, "MariaDB 11.8.2"),
            (
                "8.0.11-TiDB-v8.5.1|67108864|TiDB Server (Apache License 2.0) Community Edition",
                TiDb,
                "TiDB 8.5.1",
            ),
            ("8.0.30-Vitess|67108864|Version: 21.0.0 (Git revision )", Vitess, "Vitess 8.0.30"),
            ("8.0.23-vitess|67108864|PlanetScale", Vitess, "Vitess 8.0.23"),
            ("5.7.25-OceanBase-v4.2.1.0|16777216|OceanBase_CE 4.2.1.0", Unknown, "this product 5.7.25"),
            ("5.7.32|104857600|SingleStoreDB source distribution", Unknown, "this product 5.7.32"),
        ] {
            let engine = read(&[text]);
            assert_eq!((engine.product(), engine.to_string().as_str()), (product, shown), "{text}");
            assert_eq!((engine.cluster(), engine.limits_idling), (None, false), "{text}");
            assert!(engine.max_packet >= 16_777_216, "{text}");
        }
        assert_eq!(read(&[]).product(), EngineProduct::Unknown);
    }

    #[test]
    fn clusters_are_recognized_by_their_variables() {
        let galera = read(&["10.11.14-MariaDB|16777216|Debian 12|60", "ON"]);
        assert_eq!((galera.to_string().as_str(), galera.limits_idling), ("MariaDB 10.11.14 (Galera)", true));
        assert_eq!(read(&["10.11.14-MariaDB|16777216|Debian 12|0", "OFF"]).cluster(), None);
        let group = read(&["9.7.4|67108864|(Debian)", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"]);
        assert_eq!(group.to_string(), "MySQL 9.7.4 (MySQL Group Replication)");
        assert_eq!(read(&["9.7.4|67108864|(Debian)", ""]).cluster(), None, "the plug-in is not in use");
    }
}
