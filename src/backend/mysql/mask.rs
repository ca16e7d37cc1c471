//! Removes literals from the statements of InnoDB's status.

/// A statement with `?` in place of each literal, and without comments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Masked {
    pub(super) sql: String,
    /// Whether the text ends within a literal, a name or a comment.
    pub(super) is_open: bool,
}

/// Replaces the literals of a statement.
///
/// If the end of a string depends on the session's `sql_mode` (a backslash before a quote), the rest is
/// removed, so that nothing that may be a value remains. Text in double quotes is treated as a string, which
/// is correct unless the mode has `ANSI_QUOTES`.
pub(super) fn masked(sql: &str) -> Masked {
    let mut output = String::with_capacity(sql.len());
    let mut rest = sql;
    let mut is_open = false;
    while let Some(first) = rest.chars().next() {
        let piece = match first {
            '\'' | '"' => string(rest, first),
            '`' => name(rest),
            '/' if rest.starts_with("/*") => comment(rest),
            '#' => line(rest),
            '-' if starts_a_line_comment(rest) => line(rest),
            _ if is_number(rest) => number(rest),
            _ if is_word_char(first) => word(rest),
            _ => Piece::PreparedStatement(first.len_utf8()),
        };
        let length = match piece {
            Piece::PreparedStatement(length) => {
                output.push_str(&rest[..length]);
                length
            }
            Piece::Value(length) => {
                output.push('?');
                length
            }
            Piece::Introducer(length) => length,
            Piece::Comment(length) => {
                output.push(' ');
                length
            }
            Piece::Ambiguous => {
                output.push_str("?…");
                rest.len()
            }
            Piece::Open(sign) => {
                output.push_str(sign);
                is_open = true;
                rest.len()
            }
        };
        rest = &rest[length..];
    }
    Masked { sql: output.trim().to_owned(), is_open }
}

/// The first token of a text, with its length.
enum Piece {
    PreparedStatement(usize),
    Value(usize),
    /// The `x` of `x'41'`.
    Introducer(usize),
    Comment(usize),
    /// A string whose end depends on the session's mode.
    Ambiguous,
    /// A token that does not end, and its replacement.
    Open(&'static str),
}

fn string(text: &str, quote: char) -> Piece {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        let next = chars.peek().map(|(_, next)| *next);
        if char == '\\' && next == Some(quote) {
            return Piece::Ambiguous;
        } else if char == '\\' || (char == quote && next == Some(quote)) {
            chars.next();
        } else if char == quote {
            return Piece::Value(at + char.len_utf8());
        }
    }
    Piece::Open("?")
}

/// A name in backticks. A doubled backtick splits it into two names, which does not change the result.
fn name(text: &str) -> Piece {
    text[1..].find('`').map_or(Piece::Open("…"), |end| Piece::PreparedStatement(end + 2))
}

/// A comment, or the beginning of an executable one (`/*! */`, `/*M! */`).
fn comment(text: &str) -> Piece {
    if let Some(start) = ["/*!", "/*M!"].into_iter().find(|start| text.starts_with(start)) {
        let version = text[start.len()..].chars().take_while(char::is_ascii_digit).count();
        return Piece::PreparedStatement(start.len() + version);
    }
    text[2..].find("*/").map_or(Piece::Open(""), |end| Piece::Comment(end + 4))
}

fn line(text: &str) -> Piece {
    Piece::Comment(text.find('\n').unwrap_or(text.len()))
}

fn starts_a_line_comment(text: &str) -> bool {
    text.strip_prefix("--").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_number(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).starts_with(|first: char| first.is_ascii_digit())
}

/// A number, or a name that begins with a digit: removing a name is better than keeping a value.
fn number(text: &str) -> Piece {
    let end_of_part = |from: usize| {
        text[from..]
            .find(|char| !is_word_char(char) && char != '.')
            .map_or(text.len(), |length| from + length)
    };
    let end = end_of_part(0);
    let has_exponent =
        text[..end].ends_with(['e', 'E']) && text[end..].strip_prefix(['+', '-']).is_some_and(is_number);
    Piece::Value(if has_exponent { end_of_part(end + 1) } else { end })
}

fn word(text: &str) -> Piece {
    let length = text.find(|char| !is_word_char(char)).unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    let introduces =
        word.starts_with('_') || ["x", "b", "n"].iter().any(|one| one.eq_ignore_ascii_case(word));
    if introduces && rest.starts_with(['\'', '"']) {
        Piece::Introducer(length)
    } else {
        Piece::PreparedStatement(length)
    }
}

fn is_word_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_' || char == '$' || !char.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_literal_is_replaced() {
        for (sql, wanted) in [
            ("UPDATE t1 SET a=4711 WHERE id = -1.5e-3", "UPDATE t1 SET a=? WHERE id = -?"),
            ("SELECT .5, 0x1F, 0b01, x'41', B'1', N'a', _utf8mb4'a', 1E5", "SELECT ?, ?, ?, ?, ?, ?, ?, ?"),
            ("SELECT 'it''s', \"a 'b'\", 'a\\\\', 'a\\n\nb' FROM t", "SELECT ?, ?, ?, ? FROM t"),
            (
                "SELECT `a 1`, `b``2`, t1.c2, @v1, @'v 1' FROM `s`.`t`",
                "SELECT `a 1`, `b``2`, t1.c2, @v1, @? FROM `s`.`t`",
            ),
            ("SELECT DATE'2020-01-01', TIMESTAMP '2020-01-01 00:00:00'", "SELECT DATE?, TIMESTAMP ?"),
            ("SELECT 1 /* 'a 7 */ FROM t -- it's 8\nWHERE a = 2 # \"9", "SELECT ?   FROM t  \nWHERE a = ?"),
            (
                "SELECT 1 /*M! LOCK IN SHARE MODE*/ /*!50799 FOR SHARE*/",
                "SELECT ? /*M! LOCK IN SHARE MODE*/ /*!50799 FOR SHARE*/",
            ),
            ("SELECT 5--7, NULL, größe FROM 1a", "SELECT ?--?, NULL, größe FROM ?"),
            ("SELECT _a, x, n FROM b", "SELECT _a, x, n FROM b"),
            ("", ""),
        ] {
            assert_eq!(masked(sql), Masked { sql: wanted.to_owned(), is_open: false }, "{sql}");
        }
    }

    /// Under `NO_BACKSLASH_ESCAPES` the first string ends before the comma, so that `secret` is not a
    /// string.
    #[test]
    fn text_that_may_be_a_value_is_removed() {
        let unclear = masked("UPDATE t SET a = '\\', b = 'secret' WHERE id = 1");
        assert_eq!(unclear, Masked { sql: String::from("UPDATE t SET a = ?…"), is_open: false });
    }

    #[test]
    fn a_truncated_text_is_detected() {
        for (sql, wanted) in [
            ("UPDATE t SET a = 'secr", "UPDATE t SET a = ?"),
            ("UPDATE t SET a = 'secret\\", "UPDATE t SET a = ?"),
            ("UPDATE `sho", "UPDATE …"),
            ("UPDATE t /* secr", "UPDATE t"),
        ] {
            assert_eq!(masked(sql), Masked { sql: wanted.to_owned(), is_open: true }, "{sql}");
        }
    }

    /// Generates a token and its masked form. Values consist of characters that no name contains.
    fn piece() -> impl Strategy<Value = (String, String)> {
        let value = prop_oneof![
            "'([Q7 \n\"`#/*-]|''|\\\\[nrt0%_Q\\\\])*'",
            "\"([Q7 \n'`#/*-]|\"\"|\\\\[nrt0%_Q\\\\])*\"",
            "7{1,9}(\\.7{1,4})?([eE][+-]?7{1,2})?",
            "\\.7{1,4}",
            "0x[7]{1,8}",
            "[xX]'(77)*'",
            "_utf8mb4'[Q7]*'",
        ];
        let kept = prop_oneof![
            "[a-zé_$][a-z0-6é_$]{0,9}",
            "`[a-z0-6 #'\"-]{1,9}`",
            "[-+=<>,().;%]",
            Just(String::from("NULL"))
        ];
        prop_oneof![
            value.prop_map(|value| (value, String::from("?"))),
            kept.prop_map(|kept| (kept.clone(), kept))
        ]
    }

    proptest! {
        #[test]
        fn only_values_are_replaced(pieces in proptest::collection::vec(piece(), 0..30)) {
            let (sql, wanted): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            let wanted = Masked { sql: wanted.join(" "), is_open: false };
            prop_assert_eq!(masked(&sql.join(" ")), wanted);
        }

        #[test]
        fn no_value_remains_wherever_the_text_is_cut(pieces in proptest::collection::vec(piece(), 0..10)) {
            let sql = pieces.into_iter().map(|(sql, _)| sql).collect::<Vec<_>>().join(" ");
            for end in (0..=sql.len()).filter(|end| sql.is_char_boundary(*end)) {
                let output = masked(&sql[..end]).sql;
                prop_assert!(!output.contains(['Q', '7']), "{}", output);
            }
        }

        #[test]
        fn any_text_can_be_masked(text in ".{0,60}") {
            masked(&text);
        }
    }
}
