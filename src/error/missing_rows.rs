//! Rows that a unit names and that do not exist.

use std::fmt;

use super::{Error, ErrorKind};

/// Which of the rows that a unit names do not exist.
#[derive(Debug)]
struct MissingRows {
    table: &'static str,
    column: &'static str,
    positions: Vec<usize>,
}

impl std::error::Error for MissingRows {}

impl fmt::Display for MissingRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, positions } = self;
        write!(f, "the table `{table}` has no row with the `{column}` at index ")?;
        for (i, position) in positions.iter().enumerate() {
            write!(f, "{}{position}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str(" of the keys that the unit runs on")
    }
}

impl Error {
    /// The error for rows that do not exist. `positions` are indexes into the caller's keys.
    pub(crate) fn missing_rows_of(table: &'static str, column: &'static str, positions: Vec<usize>) -> Self {
        Self::typed(ErrorKind::RowNotFound, MissingRows { table, column, positions })
    }

    /// Returns the indexes of the keys that no row has, if rows of
    /// [`on_rows`](crate::TransactorExt::on_rows) do not exist, and otherwise nothing.
    #[must_use]
    pub fn missing_rows(&self) -> &[usize] {
        self.cause().map_or(&[], |missing: &MissingRows| &missing.positions)
    }
}
