//! Which effects of statements their texts may not show.

use std::collections::BTreeSet;

/// A query for everything by which a statement can affect rows that its text does not show: triggers and
/// foreign keys, views and rules, row security, inheritance, and functions of users in defaults, checks and
/// indexes. More lines name sequences and the tables whose columns have defaults (`s`), and the tables with
/// unique keys (`u`).
pub(in super::super) const POSTGRES_HIDDEN_EFFECTS: &str = "SELECT ((SELECT count(*) FROM pg_trigger) \
     + (SELECT count(*) FROM pg_policy) + (SELECT count(*) FROM pg_inherits) \
     + (SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE (c.relkind IN ('v', 'm', 'f') OR c.relhasrules) \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')) \
     + (SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace \
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')))::text; \
     SELECT 's' || lower(relname::text) FROM pg_class AS c WHERE relkind = 'S' \
     OR EXISTS (SELECT 1 FROM pg_attrdef WHERE adrelid = c.oid) \
     OR EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = c.oid AND attidentity <> ''); \
     SELECT 'u' || lower(relname::text) FROM pg_class AS c \
     WHERE EXISTS (SELECT 1 FROM pg_index WHERE indrelid = c.oid AND (indisunique OR indisexclusion))";

/// The same for MySQL and MariaDB, in the current database: triggers, foreign keys, views, functions, and
/// sequences. More lines name the tables with `AUTO_INCREMENT` (`s`), and those with unique keys (`u`).
pub(in super::super) const MYSQL_HIDDEN_EFFECTS: &str = "SELECT CAST( \
     (SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()) \
     + (SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS \
        WHERE CONSTRAINT_SCHEMA = DATABASE() OR UNIQUE_CONSTRAINT_SCHEMA = DATABASE()) \
     + (SELECT COUNT(*) FROM information_schema.TABLES \
        WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE <> 'BASE TABLE') \
     + (SELECT COUNT(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()) AS CHAR) \
     UNION ALL SELECT CONCAT('s', LOWER(TABLE_NAME)) FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = DATABASE() AND EXTRA LIKE '%auto_increment%' \
     UNION ALL SELECT CONCAT('u', LOWER(TABLE_NAME)) FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = DATABASE() AND NON_UNIQUE = 0";

/// What texts of statements tell about their effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct TextsTell {
    /// Statements affect the tables only that their texts show.
    pub(super) tables: bool,
    /// Statements affect the rows only that their texts show.
    pub(super) rows: bool,
    /// Sequences, and tables whose new rows may draw values from them.
    pub(super) sequences: BTreeSet<String>,
    /// Tables with unique keys.
    pub(super) unique: BTreeSet<String>,
}

impl TextsTell {
    /// From the answer to [`POSTGRES_HIDDEN_EFFECTS`].
    pub(in super::super) fn from_postgres(lines: &[String]) -> Self {
        let is_known = lines.first().is_some_and(|count| count == "0");
        let names =
            |mark| lines.iter().skip(1).filter_map(move |line| line.strip_prefix(mark).map(String::from));
        Self {
            tables: is_known,
            rows: is_known,
            sequences: names('s').collect(),
            unique: names('u').collect(),
        }
    }

    /// From the answer to [`MYSQL_HIDDEN_EFFECTS`]. InnoDB locks rows that a text does not show: those that a
    /// search passes, and the gaps between them.
    pub(in super::super) fn from_mysql(lines: &[String]) -> Self {
        Self { rows: false, ..Self::from_postgres(lines) }
    }
}
