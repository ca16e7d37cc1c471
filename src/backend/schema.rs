//! Schemas, object by object.

/// The tables and indexes of a schema: the name of each, and the statement that makes it.
pub(super) fn objects(schema: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    schema.split(';').map(str::trim).filter_map(|statement| {
        let (_, rest) = statement.split_once("IF NOT EXISTS ")?;
        Some((rest.split_whitespace().next()?, statement))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_is_found_by_its_name() {
        let schema = "CREATE TABLE IF NOT EXISTS a (\n    id INT\n);\nCREATE UNIQUE INDEX IF NOT EXISTS b ON a (id);\n";
        let found: Vec<_> = objects(schema).collect();
        assert_eq!(found[0], ("a", "CREATE TABLE IF NOT EXISTS a (\n    id INT\n)"));
        assert_eq!(found[1], ("b", "CREATE UNIQUE INDEX IF NOT EXISTS b ON a (id)"));
        assert_eq!(found.len(), 2);
    }
}
