//! What to do about a table that does not exist.

use super::{OWN, VERSION_TABLE, part_of_table};
use crate::failure::Failure;

/// Returns whether the failure is that a table does not exist. Recognizes the codes of PostgreSQL, MySQL and
/// MariaDB, and the text of SQLite, which has one code for everything.
pub(crate) fn is_missing_table(failure: &Failure) -> bool {
    matches!(failure.code(), Some("42P01" | "42S02" | "1146")) || failure.message().contains("no such table")
}

/// Returns how to create the table of this crate that a server's message names; `None` if it names none.
pub(crate) fn missing_table(message: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = message.split(|c| !is_part(c)).filter(|word| word.contains(OWN));
    names.into_iter().find_map(how_to_create)
}

/// Returns how to create a table of this crate, given its name.
pub(super) fn how_to_create(table: &str) -> Option<String> {
    let creator = match part_of_table(table) {
        Some(part) => format!("`{}` or `Schema::create`", part.creator()),
        None if table.ends_with(VERSION_TABLE) => "`Schema::create`".to_owned(),
        None => return None,
    };
    Some(format!("create {table} with {creator}, or with the statements of `Schema::sql` in a migration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_found_in_the_messages_of_all_databases() {
        for (message, creator) in [
            (
                "relation \"atomically_job\" does not exist",
                "create atomically_job with `Queue::create_tables`",
            ),
            (
                "Table 'shop.app_atomically_key' doesn't exist",
                "create app_atomically_key with `PoolTransactor",
            ),
            ("no such table: atomically_operation", "`PoolTransactor::create_operation_table`"),
            ("no such table: atomically_schema", "create atomically_schema with `Schema::create`"),
        ] {
            let advice = missing_table(message).expect("a table of the crate");
            assert!(advice.contains(creator), "{advice}");
        }
        assert_eq!(missing_table("no such table: orders"), None);
    }
}
