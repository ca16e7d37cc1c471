//! Reads the definitions of the crate's tables.

use super::{OWN, SchemaPart};

/// The table that records the version of each part, without a prefix.
pub(crate) const VERSION_TABLE: &str = "atomically_schema";

/// What one statement of the definitions creates.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// A table, with the indexes that are part of its statement.
    Table {
        /// The name of the table.
        name: String,
        /// The columns.
        columns: Vec<Member>,
        /// The indexes.
        indexes: Vec<Member>,
        /// The whole statement.
        statement: String,
    },
    /// An index.
    Index {
        /// The name of the index.
        name: String,
        /// The table that it belongs to.
        table: String,
        /// The whole statement.
        statement: String,
    },
    /// The row that records the version of a part.
    Version {
        /// The part.
        part: SchemaPart,
        /// The whole statement.
        statement: String,
    },
}

/// A column or an index of a table.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its definition, which begins with the name for a column, and with `KEY` or `UNIQUE KEY` for an index.
    pub text: String,
}

impl Definition {
    pub(crate) fn statement(&self) -> &str {
        match self {
            Self::Table { statement, .. }
            | Self::Index { statement, .. }
            | Self::Version { statement, .. } => statement,
        }
    }
}

/// Reads a text of definitions: one statement for each table and index, with one column or index per line.
pub(crate) fn definitions(sql: &str) -> Vec<Definition> {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let sql = lines.collect::<Vec<_>>().join("\n");
    sql.split(';').map(str::trim).filter_map(definition).collect()
}

fn definition(statement: &str) -> Option<Definition> {
    let text = statement.to_owned();
    if let Some(rest) = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ") {
        let (columns, indexes) = members(statement);
        return Some(Definition::Table { name: word(rest)?, columns, indexes, statement: text });
    }
    if statement.starts_with("INSERT") {
        let part = SchemaPart::named(statement.split('\'').nth(1)?)?;
        return Some(Definition::Version { part, statement: text });
    }
    let (_, rest) = statement.split_once("INDEX IF NOT EXISTS ")?;
    let (_, table) = rest.split_once(" ON ")?;
    Some(Definition::Index { name: word(rest)?, table: word(table)?, statement: text })
}

fn members(statement: &str) -> (Vec<Member>, Vec<Member>) {
    let (mut columns, mut indexes) = (Vec::new(), Vec::new());
    for line in statement.lines().skip(1).take_while(|line| !line.starts_with(')')) {
        let text = line.trim().trim_end_matches(',');
        if text.starts_with("PRIMARY KEY") {
            continue;
        }
        let rest = text.strip_prefix("UNIQUE ").unwrap_or(text);
        let (list, name) = match rest.strip_prefix("KEY ") {
            Some(rest) => (&mut indexes, word(rest)),
            None => (&mut columns, word(text)),
        };
        list.extend(name.map(|name| Member { name, text: text.to_owned() }));
    }
    (columns, indexes)
}

fn word(text: &str) -> Option<String> {
    text.split_whitespace().next().map(str::to_owned)
}

/// Returns the part to which a table belongs; `None` for the table of versions, and for tables that are not
/// the crate's.
pub(crate) fn part_of_table(name: &str) -> Option<SchemaPart> {
    match name.split_once(OWN)?.1 {
        "operation" => Some(SchemaPart::Operations),
        "key" => Some(SchemaPart::Keys),
        "job" | "job_lease" | "job_key" | "job_pause" => Some(SchemaPart::Queue),
        "lease" | "lease_expiry" => Some(SchemaPart::Leases),
        "hold" => Some(SchemaPart::Holds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_with_their_members() {
        let sql = "-- Comments; are skipped.\n\
                   CREATE TABLE IF NOT EXISTS atomically_key (\n    \
                       id INT PRIMARY KEY,\n    \
                       at INT NOT NULL,\n    \
                       PRIMARY KEY (id, at),\n    \
                       UNIQUE KEY by_at (at, id)\n\
                   ) ENGINE = InnoDB;\n\
                   CREATE UNIQUE INDEX IF NOT EXISTS b ON atomically_key (id);\n\
                   INSERT INTO atomically_schema VALUES ('keys', 1);\n";
        let [table, index, version] = <[Definition; 3]>::try_from(definitions(sql)).expect("three");
        let Definition::Table { name, columns, indexes, .. } = table else { panic!("{table:?}") };
        assert_eq!(name, "atomically_key");
        let columns: Vec<_> = columns.iter().map(|column| (&*column.name, &*column.text)).collect();
        assert_eq!(columns, [("id", "id INT PRIMARY KEY"), ("at", "at INT NOT NULL")]);
        assert_eq!((&*indexes[0].name, &*indexes[0].text), ("by_at", "UNIQUE KEY by_at (at, id)"));
        let Definition::Index { name, table, .. } = index else { panic!("{index:?}") };
        assert_eq!((&*name, &*table), ("b", "atomically_key"));
        assert!(matches!(version, Definition::Version { part: SchemaPart::Keys, .. }));
    }

    #[test]
    fn tables_belong_to_parts() {
        assert_eq!(part_of_table("app_atomically_job_lease"), Some(SchemaPart::Queue));
        assert_eq!(part_of_table("atomically_operation"), Some(SchemaPart::Operations));
        assert_eq!(part_of_table(VERSION_TABLE), None);
        assert_eq!(part_of_table("orders"), None);
    }
}
