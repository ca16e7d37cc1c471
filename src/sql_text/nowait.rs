//! Recognizes NOWAIT.

use super::{Syntax, Token, TokenizedText};

/// First words of statements that accept NOWAIT after the names of tables.
const ABOUT_TABLES: [&str; 7] = ["LOCK", "ALTER", "DROP", "CREATE", "RENAME", "TRUNCATE", "OPTIMIZE"];

/// Returns whether a text has NOWAIT as part of a lock clause, and not in a comment, a string or a name.
pub(crate) fn has_nowait(syntax: Syntax, text: &str) -> bool {
    const WORD: &[u8] = b"NOWAIT";
    if !text.as_bytes().windows(WORD.len()).any(|word| word.eq_ignore_ascii_case(WORD)) {
        return false;
    }
    let tokenized = TokenizedText::usual(syntax, text);
    tokenized.tokens.split(|token| token.is_symbol(b';')).any(|tokens| {
        let indexes = tokens.iter().enumerate().filter(|(_, token)| token.is_word("NOWAIT"));
        indexes
            .into_iter()
            .any(|(index, _)| ends_lock_clause(&tokens[..index]) || is_about_tables(tokens, index))
    })
}

/// Returns whether the tokens before NOWAIT end with a lock clause.
fn ends_lock_clause(front: &[Token<'_>]) -> bool {
    let front = without_tables(front);
    let ends = |words: &[&str]| {
        front.len() >= words.len()
            && front[front.len() - words.len()..].iter().zip(words).all(|(token, word)| token.is_word(word))
    };
    ends(&["FOR", "UPDATE"])
        || ends(&["FOR", "SHARE"])
        || ends(&["KEY", "UPDATE"])
        || ends(&["KEY", "SHARE"])
        || ends(&["IN", "SHARE", "MODE"])
}

/// Removes a trailing `OF a, b.c`.
fn without_tables<'a, 't>(front: &'a [Token<'t>]) -> &'a [Token<'t>] {
    let names = front.iter().rev().take_while(|token| {
        (token.is_name() && !token.is_any_word(&["OF", "UPDATE", "SHARE", "MODE"]))
            || token.is_symbol(b',')
            || token.is_symbol(b'.')
    });
    let names = names.count();
    match front.len().checked_sub(names + 1) {
        Some(of) if names > 0 && front[of].is_word("OF") => &front[..of],
        _ => front,
    }
}

/// Returns whether the NOWAIT at `index` belongs to a statement about tables: `LOCK TABLE a IN … MODE
/// NOWAIT`, `ALTER TABLE a NOWAIT …`.
fn is_about_tables(tokens: &[Token<'_>], index: usize) -> bool {
    if !tokens[0].is_any_word(&ABOUT_TABLES) {
        return false;
    }
    if index + 1 == tokens.len() && tokens[0].is_any_word(&["LOCK", "ALTER"]) && index > 0 {
        return true;
    }
    let Some(table) = tokens.iter().position(|token| token.is_any_word(&["TABLE", "TABLES"])) else {
        return false;
    };
    let mut names = tokens.get(table + 1..index).unwrap_or_default();
    while names.first().is_some_and(|token| token.is_any_word(&["IF", "NOT", "EXISTS"])) {
        names = &names[1..];
    }
    // Names alternate with commas and dots.
    !names.is_empty()
        && names.len() % 2 == 1
        && names.iter().enumerate().all(|(i, token)| {
            if i % 2 == 0 { token.is_name() } else { token.is_symbol(b',') || token.is_symbol(b'.') }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nowait_of_a_lock_clause_is_found() {
        for text in [
            "SELECT * FROM t FOR UPDATE NOWAIT",
            "select * from t for no key update of t nowait ;",
            "SELECT * FROM t FOR KEY SHARE /* now */ NOWAIT",
            "SELECT * FROM t FOR SHARE OF a, \"b\" NOWAIT",
            "SELECT * FROM (SELECT 1 FROM t FOR UPDATE NOWAIT) x",
            "SELECT 1; SELECT * FROM t FOR UPDATE NOWAIT",
            "LOCK TABLE t IN EXCLUSIVE MODE NOWAIT",
            "LOCK t NOWAIT",
        ] {
            assert!(has_nowait(Syntax::Postgres, text), "{text}");
        }
        for text in [
            "SELECT * FROM t LOCK IN SHARE MODE NOWAIT",
            "ALTER TABLE a.t NOWAIT ADD COLUMN n INT",
            "DROP TABLE IF EXISTS t, `u` NOWAIT",
            "/*! SELECT */ * FROM t FOR UPDATE /*M! NOWAIT */",
        ] {
            assert!(has_nowait(Syntax::MySql, text), "{text}");
        }
    }

    #[test]
    fn nowait_in_comments_strings_and_names_is_ignored() {
        for text in [
            "SELECT * FROM t FOR UPDATE -- NOWAIT",
            "SELECT * FROM t FOR UPDATE /* NOWAIT */",
            "SELECT 'FOR UPDATE NOWAIT'",
            "SELECT nowait FROM t FOR UPDATE",
            "SELECT t.nowait, nowait FROM t ORDER BY nowait FOR UPDATE",
            "UPDATE nowait SET n = 1",
            "UPDATE t SET nowait = 1 WHERE nowait > 2",
            "SELECT \"NOWAIT\" FROM t FOR UPDATE",
            "SELECT nowaiting FROM t",
            "ALTER TABLE t ADD nowait INT",
            "CREATE TABLE t (nowait INT)",
            "SELECT share, nowait FROM t",
        ] {
            assert!(!has_nowait(Syntax::Postgres, text), "{text}");
        }
        assert!(!has_nowait(Syntax::MySql, "SELECT 1 FROM t FOR UPDATE # NOWAIT"));
    }
}
