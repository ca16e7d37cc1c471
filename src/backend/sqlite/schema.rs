//! Creates tables and indexes where they are missing.

use sqlx::Sqlite;

use crate::backend::engine::Engine;
use crate::backend::schema::{CatalogScope, SchemaSql, literals};
use crate::schema::Definition;

impl SchemaSql for Sqlite {
    const DDL: &'static str = include_str!("schema.sql");

    fn create_missing(_engine: &Engine, definitions: &[Definition]) -> Vec<String> {
        let statements = definitions.iter().map(|definition| match definition {
            Definition::Table { statement, .. }
            | Definition::Index { statement, .. }
            | Definition::Version { statement, .. } => statement.as_str(),
        });
        vec![statements.collect::<Vec<_>>().join("; ")]
    }

    fn catalog(tables: &[&str], _scope: CatalogScope) -> String {
        let tables = literals(tables);
        format!(
            "WITH own AS (SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ({tables})) \
             SELECT 'table ' || name FROM own \
             UNION ALL SELECT 'column ' || own.name || ' ' || member.name \
             FROM own, pragma_table_info(own.name) AS member \
             UNION ALL SELECT 'index ' || name FROM sqlite_master WHERE type = 'index' \
             AND tbl_name IN ({tables})"
        )
    }
}
