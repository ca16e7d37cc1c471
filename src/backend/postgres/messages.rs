//! Messages of PostgreSQL without the values that they quote.

use std::borrow::Cow;

use crate::backend::errors::ServerReport;
use crate::backend::messages::{WITHHELD, without_quoted};

/// Returns the message of a report without values. The other fields (`DETAIL`, `CONTEXT`) quote whole rows
/// and are not part of any failure.
pub(super) fn redacted<'a>(report: &ServerReport<'a>) -> Cow<'a, str> {
    // `RAISE` and `ASSERT` of PL/pgSQL, which may have any SQLSTATE.
    let is_raised = matches!(report.routine, Some("exec_stmt_raise" | "exec_stmt_assert"));
    let (class, state) = (report.sqlstate.get(..2).unwrap_or_default(), report.sqlstate);
    match class {
        _ if is_raised => WITHHELD.into(),
        // External routines.
        "38" | "39" => WITHHELD.into(),
        // Data exceptions (`invalid input syntax for type integer: "…"`) and internal errors.
        "22" | "XX" | "P0" | "F0" | "HV" => without_quoted(report.message),
        _ if state == "42601" => without_quoted(report.message),
        // The others quote only names: of tables, columns, constraints, users.
        _ => report.message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_removed_and_names_are_kept() {
        for (sqlstate, message, wanted) in [
            (
                "22P02",
                "invalid input syntax for type integer: \"secret\"",
                "invalid input syntax for type integer: \"…\"",
            ),
            (
                "22P02",
                "ungültige Eingabesyntax für Typ integer: »secret«",
                "ungültige Eingabesyntax für Typ integer: »…«",
            ),
            (
                "22003",
                "value \"4711\" is out of range for type integer",
                "value \"…\" is out of range for type integer",
            ),
            ("42601", "syntax error at or near \"secret\"", "syntax error at or near \"…\""),
            (
                "42601",
                "unterminated quoted string at or near \"'secret\"",
                "unterminated quoted string at or near \"…\"",
            ),
            (
                "22001",
                "value too long for type character varying(3)",
                "value too long for type character varying(3)",
            ),
            ("42P01", "relation \"orders\" does not exist", "relation \"orders\" does not exist"),
            (
                "23505",
                "duplicate key value violates unique constraint \"email\"",
                "duplicate key value violates unique constraint \"email\"",
            ),
            ("40P01", "deadlock detected", "deadlock detected"),
        ] {
            assert_eq!(redacted(&ServerReport { sqlstate, message, ..ServerReport::default() }), wanted);
        }
    }

    #[test]
    fn the_message_of_a_raise_is_withheld_at_any_code() {
        for sqlstate in ["P0001", "23505", "40001"] {
            let report = ServerReport {
                sqlstate,
                message: "no secret",
                routine: Some("exec_stmt_raise"),
                ..ServerReport::default()
            };
            assert_eq!(redacted(&report), WITHHELD);
        }
    }
}
