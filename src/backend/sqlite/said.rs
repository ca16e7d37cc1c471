//! What SQLite said, without the values that it quotes.

use std::borrow::Cow;

use crate::backend::ServerReport;
use crate::backend::text::{WITHHELD, without_quoted};

/// A message as it may be shown.
pub(super) fn said<'a>(report: &ServerReport<'a>) -> Cow<'a, str> {
    match (report.number, report.number & 0xff) {
        // `RAISE` of a trigger, which may put a text together.
        (1811, _) => WITHHELD.into(),
        // SQLITE_ERROR: `near "…": syntax error`, `unrecognized token: "…"`, `bad JSON path: '…'`
        (_, 1) => without_quoted(report.message),
        // Constraints name columns, indexes and expressions of the schema.
        _ => report.message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_and_names_are_not() {
        for (number, message, wanted) in [
            (1, "near \"secret\": syntax error", "near \"…\": syntax error"),
            (1, "unrecognized token: \"'secret\"", "unrecognized token: \"…\""),
            (1, "no such table: orders", "no such table: orders"),
            (2067, "UNIQUE constraint failed: account.email", "UNIQUE constraint failed: account.email"),
            (2067, "UNIQUE constraint failed: index 'email'", "UNIQUE constraint failed: index 'email'"),
            (5, "database is locked", "database is locked"),
            (1811, "no secret", WITHHELD),
        ] {
            assert_eq!(said(&ServerReport { number, message, ..ServerReport::default() }), wanted);
        }
    }
}
