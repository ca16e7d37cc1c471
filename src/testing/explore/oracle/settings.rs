//! What the oracle compares.

/// What the oracle compares.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct OracleSettings {
    pub(in super::super) is_enabled: bool,
    /// The tables to compare; if empty, those that the clients touch.
    pub(in super::super) tables: Vec<String>,
    pub(in super::super) ignored: Vec<ColumnName>,
    /// Columns whose generated values are compared up to renaming. The columns of one entry hold the same
    /// ids.
    pub(in super::super) ids: Vec<Vec<ColumnName>>,
}

/// The name of a column, of one table or of all.
#[derive(Debug, Clone)]
pub(in super::super) struct ColumnName {
    table: Option<String>,
    column: String,
}

impl ColumnName {
    /// Parses `column`, `table.column` or `schema.table.column`.
    pub(in super::super) fn parse(name: &str) -> Self {
        let name = name.to_lowercase();
        match name.rsplit_once('.') {
            Some((table, column)) => Self { table: Some(table.to_owned()), column: column.to_owned() },
            None => Self { table: None, column: name },
        }
    }

    pub(super) fn is(&self, table: &str, column: &str) -> bool {
        self.column == column.to_lowercase()
            && self.table.as_ref().is_none_or(|own| *own == table.to_lowercase())
    }
}
