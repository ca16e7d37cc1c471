//! Messages of MySQL and MariaDB without the values that they quote.

use std::borrow::Cow;

use crate::backend::errors::ServerReport;
use crate::backend::messages::{WITHHELD, without_quoted};

/// Returns the message of a report without values.
pub(super) fn redacted<'a>(report: &ServerReport<'a>) -> Cow<'a, str> {
    let message = report.message;
    match report.number {
        // `SIGNAL`
        1644 => WITHHELD.into(),
        _ if report.sqlstate == "45000" => WITHHELD.into(),
        // "Duplicate entry 'x' for key 'name'", "Incorrect integer value: 'x' for column 'a' at row 1"
        1062 | 1586 => redacted_before(message, " for key "),
        1366 | 1292 | 1411 => redacted_before(message, " for column "),
        number if NAMES_ONLY.contains(&number) => message.into(),
        _ => without_quoted(message),
    }
}

/// Errors whose messages quote only names: of columns, tables, constraints, databases, users, variables.
const NAMES_ONLY: [u32; 30] = [
    1044, 1045, 1048, 1049, 1050, 1051, 1052, 1054, 1060, 1061, 1072, 1091, 1109, 1142, 1143, 1146, 1153,
    1193, 1216, 1217, 1264, 1265, 1305, 1364, 1369, 1406, 1451, 1452, 3819, 4025,
];

/// Removes what is quoted before the last occurrence of these words, which a value may contain too.
fn redacted_before<'a>(message: &'a str, word: &str) -> Cow<'a, str> {
    let Some(at) = message.rfind(word) else { return without_quoted(message) };
    let (value, names) = message.split_at(at);
    format!("{}{names}", without_quoted(value)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_removed_and_names_are_kept() {
        for (number, message, wanted) in [
            (1062, "Duplicate entry 'secret' for key 'email'", "Duplicate entry '…' for key 'email'"),
            (1062, "Duplicate entry 'a' for key 'b' for key 'email'", "Duplicate entry '…' for key 'email'"),
            (1062, "Doppelter Eintrag 'secret' für Schlüssel 'email'", "Doppelter Eintrag '…'"),
            (
                1366,
                "Incorrect integer value: 'secret' for column `shop`.`t`.`a` at row 1",
                "Incorrect integer value: '…' for column `shop`.`t`.`a` at row 1",
            ),
            (1292, "Truncated incorrect DOUBLE value: 'secret'", "Truncated incorrect DOUBLE value: '…'"),
            (
                1064,
                "You have an error in your SQL syntax near 'secret' AND b' at line 1",
                "You have an error in your SQL syntax near '…' at line 1",
            ),
            (
                1690,
                "BIGINT value is out of range in '(`t`.`a` - 4711)'",
                "BIGINT value is out of range in '…'",
            ),
            (1048, "Column 'a' cannot be null", "Column 'a' cannot be null"),
            (1205, "ReportedLock wait timeout exceeded", "ReportedLock wait timeout exceeded"),
            (1644, "no secret", WITHHELD),
        ] {
            assert_eq!(redacted(&ServerReport { number, message, ..ServerReport::default() }), wanted);
        }
    }

    #[test]
    fn the_message_of_a_signal_is_withheld() {
        let report = ServerReport {
            sqlstate: "45000",
            number: 30001,
            message: "no secret",
            ..ServerReport::default()
        };
        assert_eq!(redacted(&report), WITHHELD);
    }
}
