//! Identifies PostgreSQL and the products that speak its protocol.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;

use crate::backend::engine::{Engine, EngineCluster, EngineProduct, EngineQuery, EngineVersion, Product};
use crate::sql_text::Syntax;

impl Product for Postgres {
    const SYSTEM: &'static str = "postgresql";

    /// Spanner's PGAdapter answers the first statement itself, and only if its text is exactly this one.
    const ENGINE_QUERY: EngineQuery = EngineQuery {
        sql: "SELECT version(); SELECT extname::text FROM pg_catalog.pg_extension WHERE extname = 'citus'",
        fallback: "SELECT version()",
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
    let text = answers.iter().find(|answer| *answer != CITUS).map_or("", String::as_str);
    let (product, version) = product(text, address);
    let is_citus = product == EngineProduct::PostgreSql && answers.iter().any(|answer| answer == CITUS);
    let cluster = is_citus.then_some(EngineCluster::Citus);
    Engine { cluster, ..Engine::new(Syntax::Postgres, product, version) }
}

/// The name of the extension.
const CITUS: &str = "citus";

/// Recognizes Aurora DSQL by its endpoint, because its version is that of PostgreSQL.
fn product(text: &str, address: &str) -> (EngineProduct, EngineVersion) {
    use EngineProduct::{AuroraDsql, CockroachDb, PostgreSql, Spanner, Unknown, YugabyteDb};

    let version = EngineVersion::read(text);
    if address.contains(".dsql") && address.contains(".on.aws") {
        return (AuroraDsql, version);
    }
    if text.starts_with("CockroachDB") {
        return (CockroachDb, version);
    }
    if let Some((_, own)) = text.split_once("-YB-") {
        return (YugabyteDb, EngineVersion::read(own));
    }
    let Some(number) = text.strip_prefix("PostgreSQL ") else { return (Unknown, version) };
    if OTHERS.iter().any(|name| text.contains(name)) {
        (Unknown, version)
    } else if number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        // PGAdapter claims a version and, unlike every PostgreSQL, no build.
        (Spanner, version)
    } else {
        (PostgreSql, version)
    }
}

/// Names in the versions of products that claim to be PostgreSQL, and are not among the known ones.
const OTHERS: [&str; 9] = [
    "Redshift",
    "Greenplum",
    "Cloudberry",
    "RisingWave",
    "Materialize",
    "QuestDB",
    "openGauss",
    "GaussDB",
    "Vertica",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answers: &[&str], address: &str) -> Engine {
        engine(&answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>(), address)
    }

    /// The texts are those of the servers' own documentation and bug reports; PostgreSQL 15, 16 and 18 were
    /// run.
    #[test]
    fn products_are_recognized_by_their_versions() {
        use EngineProduct::{CockroachDb, PostgreSql, Spanner, Unknown, YugabyteDb};

        for (text, product, shown) in [
            (
                "PostgreSQL 15.20 (Debian 15.20-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc",
                PostgreSql,
                "PostgreSQL 15.20",
            ),
            (
                "PostgreSQL 13.22 on aarch64-unknown-linux-gnu, compiled by gcc 7.3.1",
                PostgreSql,
                "PostgreSQL 13.22",
            ),
            ("PostgreSQL 18beta1 on x86_64-apple-darwin24, compiled by clang", PostgreSql, "PostgreSQL 18.0"),
            ("PostgreSQL 16.3, compiled by Visual C++ build 1938, 64-bit", PostgreSql, "PostgreSQL 16.3"),
            (
                "CockroachDB CCL v25.1.2 (x86_64-pc-linux-gnu, built 2025/03/12 18:23:37, go1.22.8)",
                CockroachDb,
                "CockroachDB 25.1.2",
            ),
            (
                "PostgreSQL 11.2-YB-2.18.3.0-b0 on x86_64-pc-linux-gnu, compiled by clang version 15.0.3",
                YugabyteDb,
                "YugabyteDB 2.18.3",
            ),
            ("PostgreSQL 15.12-YB-2025.1.0.0-b0 on aarch64", YugabyteDb, "YugabyteDB 2025.1"),
            ("PostgreSQL 14.1", Spanner, "Spanner 14.1"),
            (
                "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2, Redshift 1.0.38698",
                Unknown,
                "this product 8.0.2",
            ),
            ("PostgreSQL 13.14.0-RisingWave-2.1.0 (abc)", Unknown, "this product 13.14"),
            ("", Unknown, "this product"),
        ] {
            let engine = read(&[text], "127.0.0.1:5432");
            assert_eq!((engine.product(), engine.to_string().as_str()), (product, shown), "{text}");
            assert_eq!(engine.cluster(), None, "{text}");
        }
    }

    #[test]
    fn citus_is_recognized_by_its_extension_and_dsql_by_its_endpoint() {
        let citus = read(&["PostgreSQL 16.2 on x86_64-pc-linux-gnu, compiled by gcc", "citus"], "db:5432");
        assert_eq!(citus.to_string(), "PostgreSQL 16.2 (Citus)");
        for host in ["abc.dsql.us-east-1.on.aws:5432", "abc.dsql-fnh4.us-east-1.on.aws:5432"] {
            assert_eq!(read(&["PostgreSQL 16"], host).product(), EngineProduct::AuroraDsql, "{host}");
        }
    }
}
