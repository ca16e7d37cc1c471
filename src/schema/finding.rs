//! What a check of the tables finds.

use std::fmt;

use super::SchemaPart;
use super::missing::how_to_create;

/// A difference between the tables in a database and those that this release needs, found by
/// [`Schema::check`](crate::Schema::check).
///
/// Displayed as one sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchemaFinding {
    /// A table does not exist.
    #[non_exhaustive]
    MissingTable {
        /// The name of the table.
        table: String,
        /// The statement that creates it.
        statement: String,
    },
    /// A column does not exist.
    #[non_exhaustive]
    MissingColumn {
        /// The name of the table.
        table: String,
        /// The name of the column.
        column: String,
        /// The statement that adds it.
        statement: String,
    },
    /// An index does not exist, or is invalid.
    #[non_exhaustive]
    MissingIndex {
        /// The name of the table.
        table: String,
        /// The name of the index.
        index: String,
        /// The statement that creates it.
        statement: String,
    },
    /// The version of a part is not recorded.
    #[non_exhaustive]
    MissingVersion {
        /// The part.
        part: SchemaPart,
        /// The statement that records it.
        statement: String,
    },
    /// The tables of a part are those of an earlier release.
    #[non_exhaustive]
    Old {
        /// The part.
        part: SchemaPart,
        /// The version in the database.
        found: u32,
    },
    /// The tables of a part are those of a later release.
    #[non_exhaustive]
    New {
        /// The part.
        part: SchemaPart,
        /// The version in the database.
        found: u32,
    },
}

impl fmt::Display for SchemaFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingTable { table, .. } => {
                write!(f, "the table {table} does not exist")?;
                how_to_create(table).map_or(Ok(()), |advice| write!(f, ": {advice}"))
            }
            Self::MissingColumn { table, column, statement } => {
                write!(f, "the table {table} has no column {column}: {statement}")
            }
            Self::MissingIndex { table, index, statement } => {
                write!(f, "the table {table} has no valid index {index}: {statement}")
            }
            Self::MissingVersion { part, statement } => {
                write!(f, "the version of the part {part} is not recorded: {statement}")
            }
            Self::Old { part, found } => write!(
                f,
                "the tables of the part {part} have version {found}, and this release of atomically needs \
                 version {}: run the upgrade that the changelog describes",
                part.version()
            ),
            Self::New { part, found } => write!(
                f,
                "the tables of the part {part} have version {found}, and this release of atomically knows \
                 version {}: deploy the release that has upgraded them",
                part.version()
            ),
        }
    }
}
