//! Identifies PostgreSQL and the products that speak its protocol.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;

use crate::backend::engine::{Engine, EngineCluster, EngineProduct, EngineQuery, EngineVersion, Product};
use crate::sql_text::Syntax;

impl Product for Postgres {
    const SYSTEM: &'static str = "postgresql";

    const ENGINE_QUERY: EngineQuery = EngineQuery {
        sql: "SELECT version() UNION ALL SELECT extname FROM pg_catalog.pg_extension WHERE extname = 'citus'",
        read: engine,
    };

    fn version_at_connect(connection: &Self::Connection) -> Option<u32> {
        connection.server_version_num()
    }

    /// A server of another version is noticed at once, by its version.
    const ENGINE_LIFETIME: Duration = Duration::from_secs(300);

    const SESSION_ID_QUERY: Option<&'static str> = Some("SELECT pg_backend_pid()::bigint");

    fn address(options: &PgConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    }
}

fn engine(answers: &[String], address: &str) -> Engine {
    let text = answers.iter().find(|answer| *answer != "citus").map_or("", String::as_str);
    let (product, version) = product(text, address);
    let is_citus = product == EngineProduct::PostgreSql && answers.iter().any(|answer| answer == "citus");
    let cluster = is_citus.then_some(EngineCluster::Citus);
    Engine { cluster, ..Engine::new(Syntax::Postgres, product, version) }
}

fn product(text: &str, address: &str) -> (EngineProduct, EngineVersion) {
    use EngineProduct::{AuroraDsql, CockroachDb, PostgreSql, Unknown, YugabyteDb};

    if address.contains(".dsql.") {
        return (AuroraDsql, EngineVersion::read(text));
    }
    if let Some(text) = text.strip_prefix("CockroachDB") {
        return (CockroachDb, EngineVersion::read(text));
    }
    if let Some((_, version)) = text.split_once("-YB-") {
        return (YugabyteDb, EngineVersion::read(version));
    }
    let product = if text.starts_with("PostgreSQL") { PostgreSql } else { Unknown };
    (product, EngineVersion::read(text))
}
