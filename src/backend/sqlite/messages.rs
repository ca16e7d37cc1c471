//! Messages of SQLite without the values that they quote.

use std::borrow::Cow;

use crate::backend::errors::ServerReport;
use crate::backend::messages::{WITHHELD, without_quoted};

/// Returns the message of a report without values.
pub(super) fn redacted<'a>(report: &ServerReport<'a>) -> Cow<'a, str> {
    match (report.number, report.number & 0xff) {
        // `RAISE` of a trigger, whose text may be composed of values.
        (1811, _) => WITHHELD.into(),
        // SQLITE_ERROR: `near "…": syntax error`, `unrecognized token: "…"`, `bad JSON path: '…'`
        (_, 1) => without_quoted(report.message),
        // The others quote only names and expressions of the schema.
        _ => report.message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_removed_and_names_are_kept() {
        for (number, message, wanted) in [
            (1, "near \"secret\": syntax error", "near \"…\": syntax error"),
            (1, "unrecognized token: \"'secret\"", "unrecognized token: \"…\""),
            (1, "no such table: orders", "no such table: orders"),
            (2067, "UNIQUE constraint failed: account.email", "UNIQUE constraint failed: account.email"),
            (2067, "UNIQUE constraint failed: index 'email'", "UNIQUE constraint failed: index 'email'"),
            (5, "database is locked", "database is locked"),
            (1811, "no secret", WITHHELD),
        ] {
            assert_eq!(redacted(&ServerReport { number, message, ..ServerReport::default() }), wanted);
        }
    }
}
