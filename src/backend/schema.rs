//! Creates the tables of the crate where they are missing.

use sqlx::Database;

/// The SQL that creates tables without disturbing those that exist.
#[doc(hidden)]
pub trait SchemaSql: Database {
    /// Returns the text that creates what is missing of a schema, and locks nothing that exists.
    fn create_missing(schema: &'static str) -> String {
        schema.to_owned()
    }

    /// Restores the settings of the session if [`create_missing`](Self::create_missing) has changed some
    /// and failed.
    const RESTORE_AFTER_FAILED_CREATION: Option<&'static str> = None;

    /// The schema of the table of operations.
    const CREATE_OPERATIONS: &'static str;
}

/// The tables and indexes of a schema: the name of each, and the statement that creates it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) fn objects(schema: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    schema.split(';').map(str::trim).filter_map(|statement| {
        let (_, rest) = statement.split_once("IF NOT EXISTS ")?;
        Some((rest.split_whitespace().next()?, statement))
    })
}

#[cfg(all(test, any(feature = "postgres", feature = "mysql")))]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_split_into_named_objects() {
        let schema = "CREATE TABLE IF NOT EXISTS a (\n    id INT\n);\n\
                      CREATE UNIQUE INDEX IF NOT EXISTS b ON a (id);\n";
        let found: Vec<_> = objects(schema).collect();
        assert_eq!(found[0], ("a", "CREATE TABLE IF NOT EXISTS a (\n    id INT\n)"));
        assert_eq!(found[1], ("b", "CREATE UNIQUE INDEX IF NOT EXISTS b ON a (id)"));
        assert_eq!(found.len(), 2);
    }
}
