//! Removes literals from statements, for observers, logs and reports.

use std::borrow::Cow;

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use super::waiting::may_wait_for_locks;
use super::{Kind, Syntax, Token, TokenizedText};

/// Replaces the rest of a text if that may contain values.
const REST: &str = "…";

/// A statement without literals.
pub(crate) struct MaskedStatement {
    pub(crate) sql: SqlStr,
    /// Whether the statement may wait for locks: it writes, or locks the rows that it reads.
    pub(crate) may_wait_for_locks: bool,
}

impl MaskedStatement {
    pub(crate) fn new(syntax: Syntax, sql: &SqlStr) -> Self {
        let tokenized = TokenizedText::usual(syntax, sql.as_str());
        let may_wait_for_locks = may_wait_for_locks(&tokenized.tokens);
        let sql = match masked(syntax, sql.as_str(), &tokenized) {
            Cow::Borrowed(_) => sql.clone(),
            Cow::Owned(masked) => AssertSqlSafe(masked).into_sql_str(),
        };
        Self { sql, may_wait_for_locks }
    }
}

/// Replaces each literal by `?`, and removes comments. Names and placeholders remain.
///
/// If the end of a string depends on the session's settings, or the text is incomplete, the rest is
/// removed, so that nothing that may be a value remains. Text in double quotes is a name, except on MySQL
/// and MariaDB, where it is a string by default.
fn masked<'t>(syntax: Syntax, sql: &'t str, usual: &TokenizedText<'t>) -> Cow<'t, str> {
    let unusual = TokenizedText::unusual(syntax, sql).filter(|unusual| unusual != usual);
    let unambiguous = match &unusual {
        Some(unusual) => {
            usual.tokens.iter().zip(&unusual.tokens).take_while(|(one, other)| one == other).count()
        }
        None => usual.tokens.len(),
    };
    let is_whole = usual.complete && unusual.is_none();
    let mut output = String::with_capacity(sql.len());
    let mut previous: Option<&Token<'_>> = None;
    for token in &usual.tokens[..unambiguous] {
        let between = &sql[previous.map_or(0, Token::end)..token.at];
        match between.trim() {
            "" if previous.is_some() => output.push_str(between),
            "" => {}
            _comment if previous.is_some() => output.push(' '),
            _comment => {}
        }
        output.push_str(if is_value(syntax, token, previous) { "?" } else { token.text });
        previous = Some(token);
    }
    if !is_whole {
        output.push_str(REST);
    }
    if output == sql { Cow::Borrowed(sql) } else { Cow::Owned(output) }
}

/// Returns the text with `?` in place of each value and with each run of whitespace collapsed, so that
/// statements that differ only in values become equal. A text that cannot be parsed is returned as it is.
#[cfg(feature = "testing")]
pub(crate) fn normalized(syntax: Syntax, text: &str) -> String {
    let tokenized = TokenizedText::usual(syntax, text);
    if !tokenized.complete {
        return text.to_owned();
    }
    let (mut normalized, mut end) = (String::new(), 0);
    for token in tokenized.tokens {
        let is_string = syntax == Syntax::MySql && token.text.starts_with('"');
        if matches!(token.kind, Kind::Literal | Kind::Number) || is_string {
            normalized.push_str(&text[end..token.at]);
            normalized.push('?');
            end = token.end();
        }
    }
    normalized.push_str(&text[end..]);
    normalized.split_whitespace().collect::<Vec<_>>().join(" ")
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
        MaskedStatement::new(syntax, &sql).sql.as_str().to_owned()
    }

    #[test]
    fn literals_are_replaced_on_every_database() {
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
    fn placeholders_and_names_remain() {
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
    fn text_that_may_be_a_value_is_removed() {
        for (syntax, sql, wanted) in [
            // Under `NO_BACKSLASH_ESCAPES` the first string ends before the comma.
            (Syntax::MySql, "UPDATE t SET a = '\\', b = 'secret' WHERE id = 1", "UPDATE t SET a =…"),
            (Syntax::Postgres, "UPDATE t SET a = '\\', b = 'secret'", "UPDATE t SET a =…"),
            (Syntax::Postgres, "UPDATE t SET a = 'secret", "UPDATE t SET a =…"),
            (Syntax::Sqlite, "UPDATE t SET a = \"secret", "UPDATE t SET a =…"),
        ] {
            assert_eq!(shown(syntax, sql), wanted);
        }
    }

    #[cfg(feature = "testing")]
    #[test]
    fn normalized_texts_differ_in_values_only() {
        let same = "SELECT a1, ?\u{20}FROM \"t\" WHERE a = ? AND b IN (?, ?)";
        for text in [
            "SELECT a1, 'x;''y' FROM \"t\" WHERE a = $1 AND b IN (1, 2.5)",
            "SELECT a1,  17\n FROM \"t\" WHERE a = $$?$$ AND b IN (3, E'4')",
        ] {
            assert_eq!(normalized(Syntax::Postgres, text), same);
        }
        assert_eq!(normalized(Syntax::MySql, "SELECT \"a\", `b`"), "SELECT ?, `b`");
        assert_eq!(normalized(Syntax::Sqlite, "SELECT 'open"), "SELECT 'open");
    }

    proptest! {
        /// Only values contain Q and 7.
        #[test]
        fn no_value_remains_wherever_the_text_is_cut(
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
                prop_assert_eq!(super::tests::shown(syntax, &shown), shown, "masking twice changes nothing");
            }
        }

        #[test]
        fn any_text_can_be_masked(text in ".{0,60}") {
            for syntax in ALL {
                shown(syntax, &text);
            }
        }
    }
}
