//! Splits a text into statements, and recognizes how each of them begins.

use super::{Kind, Syntax, Token, TokenizedText, TransactionEffect};

/// The prefix of the crate's own savepoints.
const OWN_SAVEPOINTS: &str = "atomically_";

/// The tokens of one statement.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlStatement<'t> {
    tokens: Vec<Token<'t>>,
}

impl<'t> SqlStatement<'t> {
    /// Returns the word at this index; empty if the token is not a word.
    fn word(&self, index: usize) -> &'t str {
        match self.tokens.get(index) {
            Some(token) if token.kind == Kind::Word => token.text,
            _ => "",
        }
    }

    /// Returns whether the statement begins with these words.
    pub(crate) fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(index, word)| self.word(index).eq_ignore_ascii_case(word))
    }

    /// Returns whether the statement begins with one of these words.
    pub(crate) fn begins_with_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.word(0).eq_ignore_ascii_case(word))
    }

    /// Returns whether the word at this index is one of these.
    pub(crate) fn has_any_at(&self, index: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.word(index).eq_ignore_ascii_case(word))
    }

    /// Returns whether the statement contains one of these words or names, quoted or not.
    pub(crate) fn mentions_any(&self, names: &[&str]) -> bool {
        let is_it = |token: &Token<'_>| names.iter().any(|name| unquoted(token).eq_ignore_ascii_case(name));
        self.tokens.iter().any(|token| token.is_name() && is_it(token))
    }

    /// Returns the same as [`mentions_any`](Self::mentions_any), but ignores user variables (`@name`).
    pub(crate) fn mentions_any_setting(&self, names: &[&str]) -> bool {
        let is_at = |index: Option<usize>| {
            index.and_then(|index| self.tokens.get(index)).is_some_and(|token| token.is_symbol(b'@'))
        };
        self.tokens.iter().enumerate().any(|(index, token)| {
            let is_user_variable = is_at(index.checked_sub(1)) && !is_at(index.checked_sub(2));
            let is_it = |name: &&str| unquoted(token).eq_ignore_ascii_case(name);
            token.is_name() && !is_user_variable && names.iter().any(is_it)
        })
    }

    /// Returns whether the statement contains these words in sequence.
    pub(crate) fn has_sequence(&self, words: &[&str]) -> bool {
        self.tokens
            .windows(words.len())
            .any(|run| run.iter().zip(words).all(|(token, word)| token.is_word(word)))
    }

    /// Returns whether the statement begins with an opening parenthesis.
    pub(crate) fn is_in_parentheses(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.is_symbol(b'('))
    }

    /// Returns the tokens after the first occurrence of this word.
    pub(crate) fn after(&self, word: &str) -> Option<Self> {
        let index = self.tokens.iter().position(|token| token.is_word(word))?;
        Some(Self { tokens: self.tokens[index + 1..].to_vec() })
    }

    /// Returns the first words of the statement, for messages.
    pub(crate) fn title(&self) -> String {
        let words = self.tokens.iter().take(2).take_while(|token| token.kind == Kind::Word);
        words.map(|token| token.text.to_uppercase()).collect::<Vec<_>>().join(" ")
    }

    /// Returns the effect of SAVEPOINT, RELEASE and ROLLBACK; `None` for other statements.
    pub(crate) fn savepoint_effect(&self) -> Option<TransactionEffect> {
        let name = if self.begins(&["SAVEPOINT"]) {
            1
        } else if self.begins(&["RELEASE", "SAVEPOINT"]) && self.tokens.len() > 2 {
            2
        } else if self.begins(&["RELEASE"]) {
            1
        } else if self.begins(&["ROLLBACK"]) {
            let to = if self.has_any_at(1, &["WORK", "TRANSACTION"]) { 2 } else { 1 };
            // SQLite: the name of a transaction, which has no effect.
            let to = if self.has_any_at(to, &["TO"]) { to } else { to + 1 };
            if !self.has_any_at(to, &["TO"]) {
                return Some(TransactionEffect::Controls);
            }
            if self.has_any_at(to + 1, &["SAVEPOINT"]) && self.tokens.len() > to + 2 {
                to + 2
            } else {
                to + 1
            }
        } else {
            return None;
        };
        let name = self.tokens.get(name).map(unquoted).unwrap_or_default();
        let is_own =
            name.get(..OWN_SAVEPOINTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_SAVEPOINTS));
        Some(if is_own { TransactionEffect::TouchesGuard } else { TransactionEffect::Inside })
    }
}

fn unquoted<'t>(token: &Token<'t>) -> &'t str {
    token.text.trim_matches(['"', '`', '\'', '[', ']'])
}

/// The statements of a text.
#[derive(Debug)]
pub(crate) struct SqlStatements<'t> {
    /// The statements. A statement with executable comments has an entry for each way in which it may begin.
    pub(crate) statements: Vec<SqlStatement<'t>>,
    /// The number of statements, without those of a body.
    pub(crate) count: usize,
    /// The number of entries of the first statement.
    pub(crate) firsts: usize,
    /// Whether the text could be parsed to its end.
    pub(crate) complete: bool,
}

impl<'t> SqlStatements<'t> {
    pub(crate) fn of(syntax: Syntax, text: &'t str) -> Self {
        Self::read(syntax, &TokenizedText::usual(syntax, text))
    }

    /// Parses the text under other settings of the session; `None` if they make no difference.
    pub(crate) fn under_unusual_settings(syntax: Syntax, text: &'t str) -> Option<Self> {
        Some(Self::read(syntax, &TokenizedText::unusual(syntax, text)?))
    }

    fn read(syntax: Syntax, tokenized: &TokenizedText<'t>) -> Self {
        let mut pieces: Vec<&[Token<'t>]> = tokenized
            .tokens
            .split(|token| token.is_symbol(b';'))
            .filter(|tokens| !tokens.is_empty())
            .collect();
        if syntax == Syntax::MySql {
            remove_bodies(&mut pieces);
        }
        let mut statements = Vec::new();
        let (mut count, mut firsts, mut bodies) = (0, 0, 0);
        for tokens in pieces {
            // The END of a body that was split at its semicolons.
            if bodies > 0 && tokens.len() == 1 && tokens[0].is_word("END") {
                bodies -= 1;
                continue;
            }
            count += usize::from(bodies == 0);
            bodies += usize::from(opens_body(syntax, tokens));
            statements.extend(beginnings(tokens));
            if count == 1 {
                firsts = statements.len();
            }
        }
        Self { statements, count, firsts, complete: tokenized.complete }
    }
}

/// MySQL and MariaDB: removes the statements of a body, up to the last END. The effect of a statement with
/// a body depends on its beginning only.
fn remove_bodies(pieces: &mut Vec<&[Token<'_>]>) {
    let Some(opens) = pieces.iter().position(|tokens| begins_block(tokens)) else { return };
    let Some(ends) = pieces.iter().rposition(|tokens| tokens[0].is_word("END")) else { return };
    if ends > opens {
        pieces.drain(opens + 1..=ends);
    }
}

/// Returns whether this is the beginning of a compound statement, or of a CREATE with a body.
fn begins_block(tokens: &[Token<'_>]) -> bool {
    let compound = tokens[0].is_any_word(&["IF", "CASE", "LOOP", "WHILE", "REPEAT", "FOR", "DECLARE"])
        || (tokens[0].is_word("BEGIN") && tokens.get(1).is_some_and(|token| token.is_word("NOT")))
        || tokens.get(1).is_some_and(|token| token.is_symbol(b':'));
    let creates = tokens[0].is_any_word(&["CREATE", "ALTER"])
        && tokens
            .iter()
            .any(|token| token.is_any_word(&["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "PACKAGE"]))
        && tokens
            .iter()
            .any(|token| token.is_any_word(&["BEGIN", "IF", "CASE", "LOOP", "WHILE", "REPEAT", "FOR"]));
    compound || creates
}

/// Returns whether a body of several statements begins in this one. The body ends with an END of its own.
fn opens_body(syntax: Syntax, tokens: &[Token<'_>]) -> bool {
    if !tokens[0].is_word("CREATE") {
        return false;
    }
    let has = |words: &[&str]| {
        tokens.windows(words.len()).any(|run| run.iter().zip(words).all(|(token, word)| token.is_word(word)))
    };
    match syntax {
        Syntax::Postgres => has(&["BEGIN", "ATOMIC"]),
        Syntax::Sqlite => tokens.iter().take(3).any(|token| token.is_word("TRIGGER")) && has(&["BEGIN"]),
        Syntax::MySql => false,
    }
}

/// Returns the statement in each way in which it may begin, because the server determines which executable
/// comments are executed.
fn beginnings<'t>(tokens: &[Token<'t>]) -> Vec<SqlStatement<'t>> {
    let whole = SqlStatement { tokens: tokens.to_vec() };
    if tokens.iter().all(|token| token.executable_comment.is_none()) {
        return vec![whole];
    }
    let mut found = vec![whole];
    let mut last = None;
    for (index, token) in tokens.iter().enumerate() {
        if index > 0 && token.executable_comment != last {
            found.push(SqlStatement { tokens: tokens[index..].to_vec() });
        }
        last = token.executable_comment;
        if token.executable_comment.is_none() {
            break;
        }
    }
    let outside = found.iter().map(|statement| {
        let first = statement.tokens.first().copied();
        let rest =
            statement.tokens.iter().skip(1).filter(|token| token.executable_comment.is_none()).copied();
        SqlStatement { tokens: first.into_iter().chain(rest).collect() }
    });
    let outside: Vec<_> = outside.collect();
    found.extend(outside);
    found
}

/// The most frequent statements that do not affect their transaction on any database.
const QUERIES: [Word; 4] = [word_of(b"SELECT"), word_of(b"INSERT"), word_of(b"UPDATE"), word_of(b"DELETE")];

/// Returns whether the text begins with a query, which cannot end its transaction. Reads only the first
/// bytes.
pub(crate) fn begins_with_a_query(text: &str) -> bool {
    let spaces = text.bytes().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')).count();
    let Some((word, rest)) = text.as_bytes()[spaces..].split_first_chunk() else { return false };
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    ends && QUERIES.contains(&word_of(word))
}

/// A word of six letters in upper case, which is compared in one step: every statement is looked at.
pub(super) type Word = u64;

/// Returns the word that these letters spell. Bytes that are not letters never spell one.
pub(super) const fn word_of(letters: &[u8; 6]) -> Word {
    const CASE: u64 = 0x2020_2020_2020;
    let [a, b, c, d, e, f] = *letters;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) & !CASE
}

/// Returns whether the text may have several statements: it contains a semicolon that is not at its end.
pub(crate) fn has_inner_semicolon(text: &str) -> bool {
    text.trim_end_matches(|c: char| c == ';' || c.is_whitespace()).contains(';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(syntax: Syntax, text: &str) -> Vec<String> {
        SqlStatements::of(syntax, text).statements.iter().map(SqlStatement::title).collect()
    }

    #[test]
    fn text_is_split_at_semicolons_outside_of_literals() {
        assert_eq!(
            titles(Syntax::Postgres, "SELECT ';' ;; -- ;\n UPDATE t SET a = $$;$$;"),
            ["SELECT", "UPDATE T"]
        );
        assert_eq!(titles(Syntax::MySql, "SELECT 1 # ;\n; COMMIT"), ["SELECT", "COMMIT"]);
    }

    #[test]
    fn a_body_is_part_of_its_statement() {
        let trigger =
            "CREATE TEMP TRIGGER a AFTER UPDATE ON t BEGIN UPDATE u SET n = 1; DELETE FROM v; END; SELECT 1";
        assert_eq!(titles(Syntax::Sqlite, trigger), ["CREATE TEMP", "DELETE FROM", "SELECT"]);
        let function = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3";
        assert_eq!(titles(Syntax::Postgres, function), ["CREATE FUNCTION", "SELECT", "SELECT"]);
        // Only one END belongs to the trigger.
        assert_eq!(
            titles(Syntax::Sqlite, "CREATE TRIGGER a BEGIN SELECT 1; END; END"),
            ["CREATE TRIGGER", "END"]
        );
        // A table with a column named `begin` has no body.
        assert_eq!(titles(Syntax::Sqlite, "CREATE TABLE t (begin INT); END"), ["CREATE TABLE", "END"]);
    }

    #[test]
    fn an_executable_comment_gives_a_statement_several_beginnings() {
        for (text, title) in [
            ("/*! COMMIT */", "COMMIT"),
            ("/*M! COMMIT */", "COMMIT"),
            ("/*!99999 SELECT */ COMMIT", "COMMIT"),
            ("/*!99999 SELECT */ /*!40000 COMMIT */", "COMMIT"),
            ("SELECT /*!99999 1; SELECT */ /*! COMMIT */", "COMMIT"),
            ("/*!99999 SELECT 1; */ COMMIT", "COMMIT"),
            ("DROP /*!99999 TEMPORARY */ TABLE t", "DROP TABLE"),
        ] {
            assert!(
                titles(Syntax::MySql, text).contains(&title.to_owned()),
                "{text}: {:?}",
                titles(Syntax::MySql, text)
            );
        }
    }

    #[test]
    fn a_query_is_recognized_by_its_first_bytes() {
        for text in [" \n SELECT 1", "select", "Update\tt SET n = 1", "INSERT INTO t", "DELETE\nFROM t"] {
            assert!(begins_with_a_query(text), "{text}");
        }
        for text in [
            "",
            "commit",
            "(SELECT 1)",
            "-- x\nSELECT 1",
            "SELECT(1)",
            "SELECT/**/1",
            "SELECT_1",
            "SELECTS 1",
            "SELECT\u{e9}",
        ] {
            assert!(!begins_with_a_query(text), "{text}");
        }
    }
}
