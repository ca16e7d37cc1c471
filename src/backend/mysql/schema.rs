//! Tables and indexes that are made where they are missing.

use crate::backend::schema::objects;

/// Gives the session its own limit back.
pub(super) const PUT_BACK: &str = "SET lock_wait_timeout = @atomically_table_wait";

/// `CREATE TABLE IF NOT EXISTS` waits for the metadata lock of a table that is there, behind any `ALTER
/// TABLE`, and is replicated to all nodes of a cluster. So the catalog is read first. There are no
/// conditional statements outside of procedures, but texts that are prepared.
///
/// What is missing waits for a lock no longer than a second at a time. The server's own limit is a day or a
/// year, and it goes on waiting for a client that has gone.
pub(super) fn creation(schema: &'static str) -> String {
    let tables = objects(schema).map(|(table, statement)| {
        let exists =
            format!("information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'");
        unless(&exists, statement)
    });
    let indexes = objects(schema).flat_map(|(table, statement)| {
        keys(statement).map(move |(index, definition)| {
            let exists = format!(
                "information_schema.statistics WHERE table_schema = DATABASE() AND table_name = '{table}' \
                 AND index_name = '{index}'"
            );
            unless(&exists, &format!("ALTER TABLE {table} ADD {definition}"))
        })
    });
    let create: Vec<_> = tables.chain(indexes).collect();
    format!(
        "SET @atomically_table_wait = @@lock_wait_timeout, lock_wait_timeout = 1; {}; {PUT_BACK}",
        create.join("; ")
    )
}

fn unless(exists: &str, statement: &str) -> String {
    let statement = statement.replace('\'', "''");
    format!(
        "SET @atomically = IF(EXISTS (SELECT 1 FROM {exists}), 'DO 0', '{statement}'); \
         PREPARE atomically_create FROM @atomically; EXECUTE atomically_create; \
         DEALLOCATE PREPARE atomically_create; SET @atomically = NULL"
    )
}

/// The indexes that the statement for a table defines, each on a line of its own: name and definition.
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
    fn each_index_is_found_with_its_definition() {
        let statement = "CREATE TABLE IF NOT EXISTS a (
            id INT PRIMARY KEY,
            KEY by_b (b, c),
            UNIQUE KEY by_c (c)
        ) ENGINE = InnoDB";
        let found: Vec<_> = keys(statement).collect();
        assert_eq!(found, [("by_b", "KEY by_b (b, c)"), ("by_c", "UNIQUE KEY by_c (c)")]);
    }
}
