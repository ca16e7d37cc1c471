//! Creates tables and indexes where they are missing.

use sqlx::Postgres;

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
    fn create_missing(definitions: &[Definition]) -> String {
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
        format!(
            "SET LOCAL statement_timeout = 9900; SET LOCAL lock_timeout = 1000; \
             DO $create$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('atomically')); {} END $create$",
            create.join(" ")
        )
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
