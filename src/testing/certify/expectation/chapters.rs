//! The chapters of the guide on engines that the tests cannot start say what [`Engine`] says.

use super::of_support;
use crate::backend::{Capability, Engine, EngineCluster, EngineProduct, EngineVersion};
use crate::sql_text::Syntax;

/// The rows of the tables, in their order.
const ROWS: [(Capability, &str); 17] = [
    (Capability::RowLocks, "`FOR UPDATE` protects rows"),
    (Capability::LocksOfManyRows, "one `SELECT … FOR UPDATE` locks rows wherever they are stored"),
    (Capability::NoKeyUpdateLocks, "`FOR NO KEY UPDATE` does not block foreign key checks"),
    (Capability::SkipLocked, "`SKIP LOCKED`"),
    (Capability::NoWait, "`NOWAIT`"),
    (Capability::AdvisoryLocks, "advisory locks"),
    (Capability::LocksCrossNodes, "locks block transactions on all nodes"),
    (
        Capability::UniqueKeysFence,
        "a transaction that has written a unique key can rely on it before its COMMIT",
    ),
    (Capability::Savepoints, "savepoints"),
    (Capability::ReadCommitted, "READ COMMITTED"),
    (Capability::SnapshotReads, "REPEATABLE READ reads from one snapshot"),
    (Capability::Serializable, "SERIALIZABLE"),
    (Capability::ReadOnlyTransactions, "read-only transactions"),
    (Capability::TransactionalDdl, "DDL is rolled back with its transaction"),
    (Capability::ServerLimits, "limits on lock waits and statements reach the server"),
    (Capability::LocalSettings, "settings and roles for single transactions"),
    (Capability::ListenNotify, "LISTEN and NOTIFY"),
];

fn engine(protocol: Syntax, product: EngineProduct, major: u32) -> Engine {
    Engine::new(protocol, product, EngineVersion::new(major, 2, 0))
}

/// The chapters, with engines of recent versions.
fn chapters() -> [(&'static str, Engine); 7] {
    use EngineProduct as P;

    let (postgres, mysql) = (Syntax::Postgres, Syntax::MySql);
    let mut citus = engine(postgres, P::PostgreSql, 17);
    citus.cluster = Some(EngineCluster::Citus);
    [
        ("cockroachdb", engine(postgres, P::CockroachDb, 25)),
        ("yugabytedb", engine(postgres, P::YugabyteDb, 2025)),
        ("aurora_dsql", engine(postgres, P::AuroraDsql, 1)),
        ("spanner", engine(postgres, P::Spanner, 1)),
        ("citus", citus),
        ("tidb", engine(mysql, P::TiDb, 8)),
        ("vitess", engine(mysql, P::Vitess, 22)),
    ]
}

fn table(engine: &Engine) -> String {
    let row = |(capability, text): (Capability, &str)| {
        format!("| {text} | {} |\n", of_support(engine.supports(capability)))
    };
    let rows: String = ROWS.into_iter().map(row).collect();
    format!("| promise | by documentation |\n|---|---|\n{rows}")
}

#[test]
fn chapters_by_documentation_say_what_the_engine_supports() {
    for (name, engine) in chapters() {
        let file = format!("{}/src/guide/engines/{name}.md", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&file).expect("a chapter");
        let (before, rest) = text.split_once("| promise |").expect("a table");
        let (_, after) = rest.split_once("\n\n").expect("a text after the table");
        let expected = format!("{before}{}\n{after}", table(&engine));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&file, &expected).expect("write the chapter");
        }
        assert!(text == expected, "{file} does not have this table:\n{}", table(&engine));
    }
}
