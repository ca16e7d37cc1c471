//! Creates tables and indexes where they are missing.

use sqlx::MySql;

use crate::backend::engine::{Capability, Engine};
use crate::backend::schema::{CatalogScope, SchemaSql, literals};
use crate::schema::Definition;

impl SchemaSql for MySql {
    const DDL: &'static str = include_str!("schema.sql");

    /// Reads the catalog first, because `CREATE TABLE IF NOT EXISTS` waits for the metadata lock of a table
    /// that exists, behind any `ALTER TABLE`, and is replicated to all nodes of a cluster. MySQL has no
    /// conditional statements outside of procedures, but a prepared text can be any statement.
    ///
    /// The creation waits for a lock for at most a second at a time. The server's own limit is a day or a
    /// year, and the server keeps waiting even after the client has disconnected.
    fn create_missing(engine: &Engine, definitions: &[Definition]) -> Vec<String> {
        if !engine.has(Capability::ServerLimits) {
            // Nothing is known of its metadata locks, and maybe no statement of another text can be executed.
            return definitions.iter().map(|definition| definition.statement().to_owned()).collect();
        }
        let create: Vec<_> = definitions.iter().flat_map(create).collect();
        vec![format!(
            "SET @atomically_table_wait = @@lock_wait_timeout, lock_wait_timeout = 1; {}; \
             {RESTORE_LOCK_WAIT}",
            create.join("; ")
        )]
    }

    const RESTORE_AFTER_FAILED_CREATION: Option<&'static str> = Some(RESTORE_LOCK_WAIT);

    fn catalog(tables: &[&str], _scope: CatalogScope) -> String {
        let own = format!("table_schema = DATABASE() AND table_name IN ({})", literals(tables));
        format!(
            "SELECT CONVERT(CONCAT('table ', table_name) USING utf8mb4) FROM information_schema.tables \
             WHERE {own} \
             UNION ALL SELECT CONVERT(CONCAT('column ', table_name, ' ', column_name) USING utf8mb4) \
             FROM information_schema.columns WHERE {own} \
             UNION ALL SELECT DISTINCT CONVERT(CONCAT('index ', index_name) USING utf8mb4) \
             FROM information_schema.statistics WHERE {own}"
        )
    }
}

const RESTORE_LOCK_WAIT: &str = "SET lock_wait_timeout = @atomically_table_wait";

/// Returns the texts that create what a statement defines, where it is missing.
fn create(definition: &Definition) -> Vec<String> {
    let of_table = |view: &str, table: &str| {
        format!("information_schema.{view} WHERE table_schema = DATABASE() AND table_name = '{table}'")
    };
    match definition {
        Definition::Table { name, indexes, statement, .. } => {
            let table = unless(&of_table("tables", name), statement);
            let indexes = indexes.iter().map(|index| {
                let exists = format!("{} AND index_name = '{}'", of_table("statistics", name), index.name);
                unless(&exists, &format!("ALTER TABLE {name} ADD {}", index.text))
            });
            std::iter::once(table).chain(indexes).collect()
        }
        Definition::Index { statement, .. } | Definition::Version { statement, .. } => {
            vec![statement.clone()]
        }
    }
}

/// Returns the text that executes `statement` unless this part of a SELECT finds a row.
fn unless(exists: &str, statement: &str) -> String {
    let statement = statement.replace('\'', "''");
    format!(
        "SET @atomically = IF(EXISTS (SELECT 1 FROM {exists}), 'DO 0', '{statement}'); \
         PREPARE atomically_create FROM @atomically; EXECUTE atomically_create; \
         DEALLOCATE PREPARE atomically_create; SET @atomically = NULL"
    )
}
