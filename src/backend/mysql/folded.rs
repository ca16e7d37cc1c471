//! Statements that share a text with START TRANSACTION or COMMIT.

use std::fmt::Write as _;

use sqlx::MySql;
use sqlx::mysql::{MySqlArguments, MySqlDatabaseError};

use super::bound_values::{self, hex_text};
use crate::backend::engine::{Capability, Engine};
use crate::backend::folded::{FoldedSql, FoldedText, Folding, Literal, Unwritable};

/// `PREPARE` and `EXECUTE` with user variables instead of values in the statement: the server itself finds
/// the placeholders, whatever the session's `sql_mode` is.
impl FoldedSql for MySql {
    fn folds(engine: Engine) -> bool {
        !engine.lacks(Capability::SeveralStatementsInOnePacket)
    }

    fn literals(arguments: &MySqlArguments) -> Result<Vec<Literal>, Unwritable> {
        bound_values::literals(arguments)
    }

    /// A check reads the number of rows, returns it, and fails with an integer that is out of range: without
    /// a stored routine, no statement raises an error of its own on MySQL.
    fn fold(statement: &Folding<'_>) -> Option<FoldedText> {
        let Folding { sql, literals, expects_one, .. } = *statement;
        let mut text = format!("SET @atomically_sql = {}", hex_text(sql.as_bytes()));
        let mut using = String::new();
        for (i, literal) in literals.iter().enumerate() {
            let _ = write!(text, ", @atomically_{i} = {}", literal.sql);
            let _ = write!(using, "{} @atomically_{i}", if i == 0 { " USING" } else { "," });
        }
        let _ = write!(
            text,
            "; PREPARE atomically_statement FROM @atomically_sql; EXECUTE atomically_statement{using}"
        );
        if !expects_one {
            return Some(FoldedText { sql: text, results: 3, before: 2, ..FoldedText::default() });
        }
        text.push_str(
            "; SET @atomically_rows = ROW_COUNT(); SELECT @atomically_rows; \
             SELECT IF(@atomically_rows = 1, 1, 9223372036854775807 + ABS(@atomically_rows) + 1)",
        );
        Some(FoldedText { sql: text, results: 6, before: 2, check: Some(5), prepares: None })
    }

    fn unexpected_rows(error: &sqlx::Error, integers: &[i64]) -> Option<u64> {
        let rows = integers.last().filter(|_| Self::is_failed_check(error))?;
        u64::try_from(*rows).ok()
    }

    /// 1690: the number is out of range.
    fn is_failed_check(error: &sqlx::Error) -> bool {
        let error = error.as_database_error().and_then(|error| error.try_downcast_ref());
        error.is_some_and(|error: &MySqlDatabaseError| error.number() == 1690)
    }
}
