//! Creates tables and indexes where they are missing.

use sqlx::MySql;

use crate::backend::schema::{SchemaSql, objects};

impl SchemaSql for MySql {
    /// Reads the catalog first, because `CREATE TABLE IF NOT EXISTS` waits for the metadata lock of a table
    /// that exists, behind any `ALTER TABLE`, and is replicated to all nodes of a cluster. MySQL has no
    /// conditional statements outside of procedures, but a prepared text can be any statement.
    ///
    /// The creation waits for a lock for at most a second at a time. The server's own limit is a day or a
    /// year, and the server keeps waiting even after the client has disconnected.
    fn create_missing(schema: &'static str) -> String {
        let tables = objects(schema).map(|(table, statement)| {
            let exists = format!(
                "information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'"
            );
            unless(&exists, statement)
        });
        let indexes = objects(schema).flat_map(|(table, statement)| {
            keys(statement).map(move |(index, definition)| {
                let exists = format!(
                    "information_schema.statistics WHERE table_schema = DATABASE() \
                     AND table_name = '{table}' AND index_name = '{index}'"
                );
                unless(&exists, &format!("ALTER TABLE {table} ADD {definition}"))
            })
        });
        let create: Vec<_> = tables.chain(indexes).collect();
        format!(
            "SET @atomically_table_wait = @@lock_wait_timeout, lock_wait_timeout = 1; {}; \
             {RESTORE_LOCK_WAIT}",
            create.join("; ")
        )
    }

    const RESTORE_AFTER_FAILED_CREATION: Option<&'static str> = Some(RESTORE_LOCK_WAIT);

    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BINARY(16) PRIMARY KEY,
        recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) ENGINE = InnoDB";
}

const RESTORE_LOCK_WAIT: &str = "SET lock_wait_timeout = @atomically_table_wait";

/// Returns the text that executes `statement` unless this part of a SELECT finds a row.
fn unless(exists: &str, statement: &str) -> String {
    let statement = statement.replace('\'', "''");
    format!(
        "SET @atomically = IF(EXISTS (SELECT 1 FROM {exists}), 'DO 0', '{statement}'); \
         PREPARE atomically_create FROM @atomically; EXECUTE atomically_create; \
         DEALLOCATE PREPARE atomically_create; SET @atomically = NULL"
    )
}

/// Returns the name and the definition of each index that a CREATE TABLE defines, given one definition per
/// line.
fn keys(statement: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    statement.lines().filter_map(|line| {
        let definition = line.trim().trim_end_matches(',');
        let rest = definition.strip_prefix("UNIQUE ").unwrap_or(definition).strip_prefix("KEY ")?;
        Some((rest.split_whitespace().next()?, definition))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_found_with_their_definitions() {
        let statement = "CREATE TABLE IF NOT EXISTS a (
            id INT PRIMARY KEY,
            KEY by_b (b, c),
            UNIQUE KEY by_c (c)
        ) ENGINE = InnoDB";
        let found: Vec<_> = keys(statement).collect();
        assert_eq!(found, [("by_b", "KEY by_b (b, c)"), ("by_c", "UNIQUE KEY by_c (c)")]);
    }
}
