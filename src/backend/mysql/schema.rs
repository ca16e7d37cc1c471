//! Tables that are made where they are missing.

use crate::backend::schema::objects;

/// `CREATE TABLE IF NOT EXISTS` waits for the metadata lock of a table that is there, behind any `ALTER TABLE`, and is
/// replicated to all nodes of a cluster. So the catalog is read first. There are no conditional statements outside of
/// procedures, but texts that are prepared.
pub(super) fn creation(schema: &'static str) -> String {
    let create = objects(schema).map(|(name, statement)| {
        let statement = statement.replace('\'', "''");
        format!(
            "SET @atomically = IF(EXISTS (SELECT 1 FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = '{name}'), 'DO 0', '{statement}'); \
             PREPARE atomically_create FROM @atomically; EXECUTE atomically_create; \
             DEALLOCATE PREPARE atomically_create; SET @atomically = NULL"
        )
    });
    create.collect::<Vec<_>>().join("; ")
}
