//! Recognizes texts of one statement that can be made part of another text.

use super::statement::SqlStatements;
use super::{Syntax, TokenizedText};

/// The first words of the statements that read or write rows.
const DATA_STATEMENTS: [&str; 7] = ["INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "SELECT", "WITH"];

/// Returns whether the text is a single statement that reads or writes rows.
pub(crate) fn is_data_statement(syntax: Syntax, text: &str) -> bool {
    let read = SqlStatements::of(syntax, text);
    let is_data = read.statements.iter().all(|statement| statement.begins_with_any(&DATA_STATEMENTS));
    read.complete && read.count == 1 && is_data
}

/// Returns the statement of a text without the semicolons and comments after it, or `None` if another text
/// could become part of it: several statements, a string or comment that does not end, or one whose end
/// depends on the session's settings.
pub(crate) fn only_statement(syntax: Syntax, text: &str) -> Option<&str> {
    let usual = TokenizedText::usual(syntax, text);
    let is_certain = TokenizedText::unusual(syntax, text).is_none_or(|unusual| unusual == usual);
    let last = usual.tokens.iter().rposition(|token| !token.is_symbol(b';'))?;
    let is_one = !usual.tokens[..last].iter().any(|token| token.is_symbol(b';'));
    let has_executable = usual.tokens.iter().any(|token| token.executable_comment.is_some());
    (usual.complete && is_certain && is_one && !has_executable).then(|| &text[..usual.tokens[last].end()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_single_statement_is_found() {
        for (text, statement) in [
            ("UPDATE t SET a = ';' -- ; x", Some("UPDATE t SET a = ';'")),
            ("DELETE FROM t ; /* a */ ;\n", Some("DELETE FROM t")),
            ("DELETE FROM t; DELETE FROM u", None),
            ("UPDATE t SET a = 'b", None),
            ("UPDATE t SET a = 'b\\'", None),
            ("DELETE FROM t /* b", None),
            ("", None),
        ] {
            assert_eq!(only_statement(Syntax::Postgres, text), statement, "{text}");
        }
        assert_eq!(only_statement(Syntax::MySql, "UPDATE t SET a = 1 /*! , b = 2 */"), None);
    }

    #[test]
    fn data_statements_are_recognized_behind_comments() {
        for (text, is_data) in [
            ("/* a */ update t set a = 1;", true),
            ("WITH a AS (SELECT 1) DELETE FROM t", true),
            ("CREATE TABLE t (id INT)", false),
            ("SET a = 1", false),
            ("SELECT 1; SELECT 2", false),
        ] {
            assert_eq!(is_data_statement(Syntax::Postgres, text), is_data, "{text}");
        }
    }
}
