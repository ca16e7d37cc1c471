//! What observers, logs and reports show of a statement: its text without the values in it.

use std::borrow::Cow;

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::waiting::asks_for_locks;
use super::{Kind, Syntax, Token, TokenizedText};

/// Stands for what is not shown because it could not be told whether it is a value.
const REST: &str = "…";

/// A statement as it may be shown, and what telemetry needs to know of it.
pub(crate) struct ShownStatement {
    pub(crate) sql: SqlStr,
    /// Whether it may have to wait for rows that others have locked: it writes, or locks what it reads.
    pub(crate) asks_for_locks: bool,
}

impl ShownStatement {
    pub(crate) fn new(syntax: Syntax, sql: &SqlStr) -> Self {
        let reading = TokenizedText::usual(syntax, sql.as_str());
        let asks_for_locks = asks_for_locks(&reading.tokens);
        let sql = match masked(syntax, sql.as_str(), &reading) {
            Cow::Borrowed(_) => sql.clone(),
            Cow::Owned(masked) => AssertSqlSafe(masked).into_sql_str(),
        };
        Self { sql, asks_for_locks }
    }
}

/// Puts `?` in place of each literal, and leaves comments out. Names and placeholders stay.
///
/// Where it depends on the session's settings, or on what the text lacks, whether a string ends, the rest is
/// left out: nothing that may be a value stays. What is in double quotes is a name, and on MySQL and MariaDB
/// a string, as it is there by default.
fn masked<'t>(syntax: Syntax, sql: &'t str, usual: &TokenizedText<'t>) -> Cow<'t, str> {
    let unusual = TokenizedText::unusual(syntax, sql).filter(|unusual| unusual != usual);
    let certain = match &unusual {
        Some(unusual) => {
            usual.tokens.iter().zip(&unusual.tokens).take_while(|(one, other)| one == other).count()
        }
        None => usual.tokens.len(),
    };
    let is_whole = usual.complete && unusual.is_none();
    let mut shown = String::with_capacity(sql.len());
    let mut previous: Option<&Token<'_>> = None;
    for token in &usual.tokens[..certain] {
        let between = &sql[previous.map_or(0, Token::end)..token.at];
        match between.trim() {
            "" if previous.is_some() => shown.push_str(between),
            "" => {}
            _comment if previous.is_some() => shown.push(' '),
            _comment => {}
        }
        shown.push_str(if is_value(syntax, token, previous) { "?" } else { token.text });
        previous = Some(token);
    }
    if !is_whole {
        shown.push_str(REST);
    }
    if shown == sql { Cow::Borrowed(sql) } else { Cow::Owned(shown) }
}

fn is_value(syntax: Syntax, token: &Token<'_>, previous: Option<&Token<'_>>) -> bool {
    match token.kind {
        Kind::Word | Kind::Symbol(_) => false,
        Kind::Quoted => syntax == Syntax::MySql && token.text.starts_with('"'),
        // `?1` of SQLite.
        Kind::Number => !previous.is_some_and(|sign| sign.is_symbol(b'?') && sign.end() == token.at),
        Kind::Literal => !is_parameter(syntax, token.text),
    }
}

/// `$1` on PostgreSQL, `:name` and its like on SQLite.
fn is_parameter(syntax: Syntax, text: &str) -> bool {
    match syntax {
        Syntax::Postgres => {
            text.strip_prefix('$').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        }
        Syntax::Sqlite => text.starts_with(['$', ':', '@', '#']),
        Syntax::MySql => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Syntax; 3] = [Syntax::Postgres, Syntax::MySql, Syntax::Sqlite];

    fn shown(syntax: Syntax, sql: &str) -> String {
        let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
        ShownStatement::new(syntax, &sql).sql.as_str().to_owned()
    }

    #[test]
    fn literals_become_question_marks_everywhere() {
        for (sql, wanted) in [
            (
                "UPDATE t1 SET a = 4711, b = 'secret' WHERE id = -1.5",
                "UPDATE t1 SET a = ?, b = ? WHERE id = -?",
            ),
            ("SELECT 'it''s', x'41', N'a' /* 'secret' */ FROM t -- 4711", "SELECT ?, x?, N? FROM t"),
            (" /* secret */ SELECT a FROM t", "SELECT a FROM t"),
            ("SELECT a, NULL FROM t WHERE b IN (1, 2)", "SELECT a, NULL FROM t WHERE b IN (?, ?)"),
            ("SELECT a FROM t", "SELECT a FROM t"),
            ("", ""),
        ] {
            for syntax in ALL {
                assert_eq!(shown(syntax, sql), wanted, "{syntax:?}");
            }
        }
    }

    #[test]
    fn placeholders_and_names_stay() {
        for (syntax, sql, wanted) in [
            (
                Syntax::Postgres,
                "SELECT \"a 1\" FROM t WHERE id = $12",
                "SELECT \"a 1\" FROM t WHERE id = $12",
            ),
            (Syntax::Postgres, "DO $x$ secret $x$; SELECT E'a\\'b', U&'c'", "DO ?; SELECT ?, U&?"),
            (
                Syntax::MySql,
                "SELECT `a 1`, \"secret\", @v1 FROM t WHERE id = ?",
                "SELECT `a 1`, ?, @v1 FROM t WHERE id = ?",
            ),
            (
                Syntax::Sqlite,
                "SELECT [a 1], \"b\" FROM t WHERE c = ?12 AND d = :e AND f = @g",
                "SELECT [a 1], \"b\" FROM t WHERE c = ?12 AND d = :e AND f = @g",
            ),
            (Syntax::MySql, "SELECT 1 FROM t /*!50799 FOR SHARE*/", "SELECT ? FROM t FOR SHARE"),
        ] {
            assert_eq!(shown(syntax, sql), wanted);
        }
    }

    #[test]
    fn what_may_be_a_value_is_left_out() {
        for (syntax, sql, wanted) in [
            // Under `NO_BACKSLASH_ESCAPES` the first string ends in front of the comma.
            (Syntax::MySql, "UPDATE t SET a = '\\', b = 'secret' WHERE id = 1", "UPDATE t SET a =…"),
            (Syntax::Postgres, "UPDATE t SET a = '\\', b = 'secret'", "UPDATE t SET a =…"),
            (Syntax::Postgres, "UPDATE t SET a = 'secret", "UPDATE t SET a =…"),
            (Syntax::Sqlite, "UPDATE t SET a = \"secret", "UPDATE t SET a =…"),
        ] {
            assert_eq!(shown(syntax, sql), wanted);
        }
    }

    proptest! {
        /// Values are made of Q and 7, and nothing else is.
        #[test]
        fn no_value_is_shown_wherever_the_text_is_cut(
            values in proptest::collection::vec("'([Q7 \n;-]|'')*'|7{1,9}(\\.7{1,4})?|0x7{1,4}", 0..8),
            end in 0.0..=1.0,
        ) {
            let sql = values.into_iter().map(|value| format!("a = {value} AND ")).collect::<String>();
            let mut end = (sql.len() as f64 * end) as usize;
            while !sql.is_char_boundary(end) {
                end -= 1;
            }
            for syntax in ALL {
                let shown = shown(syntax, &sql[..end]);
                prop_assert!(!shown.contains(['Q', '7']), "{}", shown);
                prop_assert_eq!(super::super::shown::tests::shown(syntax, &shown), shown, "once more changes nothing");
            }
        }

        #[test]
        fn any_text_can_be_shown(text in ".{0,60}") {
            for syntax in ALL {
                shown(syntax, &text);
            }
        }
    }
}
