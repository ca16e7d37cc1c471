//! The tables that the crate keeps: their names and their definitions, as plain data.

use std::fmt;

mod definition;
mod finding;
mod missing;

pub(crate) use definition::{Definition, VERSION_TABLE, definitions, part_of_table};
pub use finding::SchemaFinding;
pub(crate) use missing::{is_missing_table, missing_table};

/// What the names of all tables and indexes of the crate begin with, unless a prefix precedes it.
const OWN: &str = "atomically_";

/// The tables that the crate keeps in a database: creates them, returns their definitions, and checks them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), atomically::Error> {
/// # #[cfg(feature = "sqlite")] {
/// use atomically::{Options, Pessimistic, Schema};
///
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// let schema = Schema::prefixed("app_")?;
/// schema.create(&pool).await?;
/// for finding in schema.check(&pool).await? {
///     eprintln!("{finding}");
/// }
/// // Everything that runs on this transactor uses these tables.
/// let db = Pessimistic::default().on(&pool).options(Options::new().schema(schema));
/// # assert!(schema.check(&pool).await?.is_empty());
/// # } Ok(()) }
/// ```
///
/// The [guide](crate::guide::schema) shows all definitions, and explains migrations and upgrades.
///
/// # Default
///
/// - names: without a prefix, such as `atomically_key`
/// - parts: all
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schema {
    prefix: &'static str,
    parts: [bool; SchemaPart::ALL.len()],
}

/// A group of tables that one feature of the crate needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SchemaPart {
    /// `atomically_operation`, which [`Options::resolve_commits`](crate::Options::resolve_commits) needs.
    Operations,
    /// `atomically_key`, the idempotency keys.
    Keys,
    /// `atomically_job` and the tables whose names begin with `atomically_job_`, the queues.
    Queue,
    /// `atomically_lease` and `atomically_lease_expiry`, the leases.
    Leases,
    /// `atomically_hold`, the holds.
    Holds,
}

impl SchemaPart {
    /// All parts, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Operations, Self::Keys, Self::Queue, Self::Leases, Self::Holds];

    /// Returns the name under which the database records the version of the part: `operations`, `keys`,
    /// `queue`, `leases` or `holds`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Keys => "keys",
            Self::Queue => "queue",
            Self::Leases => "leases",
            Self::Holds => "holds",
        }
    }

    /// Returns the version of the part's tables that this release of the crate creates and needs.
    #[must_use]
    pub const fn version(self) -> u32 {
        match self {
            Self::Operations | Self::Keys | Self::Queue | Self::Leases | Self::Holds => 1,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == name)
    }

    /// The method that creates only the tables of this part.
    const fn creator(self) -> &'static str {
        match self {
            Self::Operations => "PoolTransactor::create_operation_table",
            Self::Keys => "PoolTransactor::create_key_table",
            Self::Queue => "Queue::create_tables",
            Self::Leases => "Lease::create_tables",
            Self::Holds => "Holds::create_tables",
        }
    }
}

impl fmt::Display for SchemaPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Schema {
    /// Returns all tables, without a prefix.
    #[must_use]
    pub const fn new() -> Self {
        Self { prefix: "", parts: [true; SchemaPart::ALL.len()] }
    }

    pub(crate) const fn with_prefix(prefix: &'static str) -> Self {
        Self { prefix, ..Self::new() }
    }

    /// Returns only the tables of these parts, and the table of versions.
    ///
    /// This matters for [`sql`](Self::sql), [`create`](Self::create) and [`check`](Self::check); for
    /// [`Options::schema`](crate::Options::schema) only the prefix does.
    #[must_use]
    pub fn only(self, parts: &[SchemaPart]) -> Self {
        Self { parts: SchemaPart::ALL.map(|part| self.has(part) && parts.contains(&part)), ..self }
    }

    pub(crate) fn has(self, part: SchemaPart) -> bool {
        self.parts.get(part as usize).copied().unwrap_or_default()
    }

    pub(crate) const fn prefix(self) -> &'static str {
        self.prefix
    }

    /// Puts the prefix before the names of the crate's tables and indexes in a statement. String literals
    /// are not changed: they may hold names of queues.
    pub(crate) fn in_sql(self, sql: String) -> String {
        if self.prefix.is_empty() {
            return sql;
        }
        // Every other part is inside of quotes. The crate's own statements contain no other quotes.
        let parts = sql.split('\'').enumerate();
        let parts =
            parts.map(|(i, part)| if i % 2 == 0 { self.everywhere_in(part) } else { part.to_owned() });
        parts.collect::<Vec<_>>().join("'")
    }

    /// Puts the prefix before the names of the crate's tables and indexes in a text that contains no data,
    /// within string literals too.
    pub(crate) fn everywhere_in(self, text: &str) -> String {
        text.replace(OWN, &format!("{}{OWN}", self.prefix))
    }

    /// Returns the definitions in a file of this crate, for these parts and with this prefix.
    pub(crate) fn of_file(self, file: &str) -> String {
        let mut sections = file.split("\n-- # ");
        let mut text = sections.next().unwrap_or_default().to_owned();
        for section in sections {
            let name = section.split_whitespace().next().unwrap_or_default();
            if SchemaPart::named(name).is_some_and(|part| self.has(part)) {
                text.push_str("\n-- # ");
                text.push_str(section);
            }
        }
        self.in_sql(text)
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = SchemaPart::ALL.into_iter().filter(|part| self.has(*part)).collect();
        f.debug_struct("Schema").field("prefix", &self.prefix).field("parts", &parts).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_precedes_names_but_not_data() {
        let sql = "SELECT id FROM atomically_job WHERE queue = 'atomically_job' \
                   AND id IN (SELECT job_id FROM atomically_job_lease)";
        let prefixed = Schema::with_prefix("app_").in_sql(sql.to_owned());
        assert_eq!(
            prefixed,
            "SELECT id FROM app_atomically_job WHERE queue = 'atomically_job' \
             AND id IN (SELECT job_id FROM app_atomically_job_lease)"
        );
        assert_eq!(Schema::new().in_sql(sql.to_owned()), sql);
    }

    #[test]
    fn a_file_is_reduced_to_the_requested_parts() {
        let file = "-- All.\na;\n\n-- # operations\nb;\n\n-- # queue\n-- Jobs.\nc;\n";
        assert_eq!(Schema::new().of_file(file), file);
        let only = Schema::new().only(&[SchemaPart::Queue]);
        assert_eq!(only.of_file(file), "-- All.\na;\n\n-- # queue\n-- Jobs.\nc;\n");
        assert_eq!(only.only(&[SchemaPart::Keys]).of_file(file), "-- All.\na;\n");
    }

    #[test]
    fn parts_are_indexed_in_their_order() {
        assert!(SchemaPart::ALL.into_iter().map(|part| part as usize).eq(0..SchemaPart::ALL.len()));
    }
}
