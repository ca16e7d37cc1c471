//! Creates the tables of the crate where they are missing, and looks them up.

use sqlx::Database;

use super::engine::Engine;
use crate::schema::Definition;

/// The definitions of the crate's tables, and the SQL that creates them without disturbing those that exist.
#[doc(hidden)]
pub trait SchemaSql: Database {
    /// The file with all definitions.
    const DDL: &'static str;

    /// Returns the texts that create what is missing, and lock nothing that exists.
    fn create_missing(engine: &Engine, definitions: &[Definition]) -> Vec<String>;

    /// Restores the settings of the session if [`create_missing`](Self::create_missing) has changed some
    /// and failed.
    const RESTORE_AFTER_FAILED_CREATION: Option<&'static str> = None;

    /// Returns the query for what exists of these tables: a row of text for each, of the form `table NAME`,
    /// `column TABLE NAME` or `index NAME`. It reads only the catalog, and takes no locks on the tables.
    fn catalog(tables: &[&str], scope: CatalogScope) -> String;
}

/// In which of PostgreSQL's schemas to look for tables. Other databases have one.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogScope {
    /// In the one in which new tables are created.
    Creation,
    /// In all of the search path, as statements do.
    SearchPath,
}

/// Returns the names as a list of string literals.
pub(super) fn literals(names: &[&str]) -> String {
    names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
