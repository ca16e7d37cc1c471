//! Creates tables and indexes where they are missing.

use sqlx::Postgres;

use crate::backend::engine::{Capability, Engine, EngineProduct};
use crate::backend::schema::{CatalogScope, SchemaSql, literals};
use crate::schema::Definition;

impl SchemaSql for Postgres {
    const DDL: &'static str = include_str!("schema.sql");

    /// `CREATE INDEX IF NOT EXISTS` locks the table against writers even if the index exists, and every later
    /// writer queues behind that lock. The catalog is therefore read first, without any lock. The creation
    /// has a limit that the server enforces, because the server keeps waiting even after the client has
    /// disconnected.
    ///
    /// The advisory lock serializes concurrent processes: `IF NOT EXISTS` checks before it creates, so one
    /// of two would violate a unique key of the catalog.
    ///
    /// Where there are no advisory locks or no storage parameters, each statement is sent on its own.
    fn create_missing(engine: &Engine, definitions: &[Definition]) -> Vec<String> {
        if !(engine.has(Capability::AdvisoryLocks) && engine.has(Capability::StorageParameters)) {
            return definitions.iter().map(|definition| plain(engine, definition)).collect();
        }
        let is_missing = |name: &str| {
            format!(
                "NOT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                 WHERE relname = '{name}' AND nspname = current_schema())"
            )
        };
        let create: Vec<_> = definitions
            .iter()
            .map(|definition| match definition {
                Definition::Table { name, statement, .. } | Definition::Index { name, statement, .. } => {
                    format!("IF {} THEN {statement}; END IF;", is_missing(name))
                }
                Definition::Version { statement, .. } => format!("{statement};"),
            })
            .collect();
        vec![format!(
            "SET LOCAL statement_timeout = 9900; SET LOCAL lock_timeout = 1000; \
             DO $create$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('atomically')); {} END $create$",
            create.join(" ")
        )]
    }

    fn catalog(tables: &[&str], scope: CatalogScope) -> String {
        let tables = literals(tables);
        let name = match scope {
            CatalogScope::Creation => "quote_ident(current_schema()) || '.' || wanted",
            CatalogScope::SearchPath => "wanted",
        };
        format!(
            "WITH own AS (SELECT wanted, to_regclass({name}) AS oid FROM unnest(ARRAY[{tables}]) AS wanted) \
             SELECT 'table ' || wanted FROM own WHERE oid IS NOT NULL \
             UNION ALL SELECT 'column ' || wanted || ' ' || attname FROM own \
             JOIN pg_attribute ON attrelid = own.oid WHERE attnum > 0 AND NOT attisdropped \
             UNION ALL SELECT 'index ' || relname FROM own JOIN pg_index ON indrelid = own.oid \
             JOIN pg_class ON pg_class.oid = indexrelid WHERE indisvalid"
        )
    }
}

/// Returns a statement without what the engine lacks. Aurora DSQL creates indexes in the background only.
fn plain(engine: &Engine, definition: &Definition) -> String {
    let statement = definition.statement();
    let end = statement.find("\n) WITH (").map_or(statement.len(), |end| end + "\n)".len());
    let has_parameters = engine.has(Capability::StorageParameters);
    let statement = if has_parameters { statement } else { statement.get(..end).unwrap_or(statement) };
    match engine.product {
        EngineProduct::AuroraDsql => statement.replacen(" INDEX IF NOT ", " INDEX ASYNC IF NOT ", 1),
        _ => statement.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{EngineCluster, EngineVersion};
    use crate::schema::{Schema, definitions};
    use crate::sql_text::Syntax;

    fn texts(product: EngineProduct, cluster: Option<EngineCluster>) -> Vec<String> {
        let engine = Engine::new(Syntax::Postgres, product, EngineVersion::new(25, 1, 0));
        let definitions = definitions(&Schema::new().sql::<Postgres>());
        Postgres::create_missing(&Engine { cluster, ..engine }, &definitions)
    }

    #[test]
    fn postgresql_creates_in_one_text_behind_an_advisory_lock() {
        for cluster in [None, Some(EngineCluster::Citus)] {
            let [text] = &texts(EngineProduct::PostgreSql, cluster)[..] else { panic!("one text") };
            assert!(
                text.contains("pg_advisory_xact_lock") && text.contains("autovacuum_vacuum_scale_factor")
            );
        }
    }

    #[test]
    fn others_create_with_plain_statements_and_without_storage_parameters() {
        use EngineProduct::{AuroraDsql, CockroachDb, Spanner, Unknown, YugabyteDb};

        for product in [CockroachDb, YugabyteDb, AuroraDsql, Spanner, Unknown] {
            let texts = texts(product, None);
            let tables = texts.iter().filter(|text| text.starts_with("CREATE TABLE")).count();
            assert_eq!(tables, 10, "{product:?}");
            for text in &texts {
                let lacks = ["pg_advisory", "autovacuum", "fillfactor", "DO $", "SET LOCAL"];
                assert!(!lacks.iter().any(|word| text.contains(word)), "{product:?}: {text}");
                assert!(!text.contains(';'), "{product:?}: {text}");
                let is_index = text.contains(" INDEX ");
                assert_eq!(text.contains(" ASYNC "), is_index && product == AuroraDsql, "{text}");
            }
        }
    }
}
