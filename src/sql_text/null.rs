//! Finds comparisons with NULL, which no row satisfies.

use super::statement::word_of;
use super::{Kind, Syntax, Token, TokenizedText};

/// Words that end a condition which must hold for every matching row.
const ENDS_CONDITION: [&str; 5] = ["AND", "RETURNING", "ORDER", "LIMIT", "OPTION"];

/// Words with which a WHERE may hold although one of its comparisons does not.
const ALTERNATIVES: [&str; 8] = ["OR", "XOR", "NOT", "CASE", "IF", "IIF", "IS", "SELECT"];

/// Returns whether a text begins with UPDATE or DELETE.
pub(crate) fn is_update_or_delete(text: &str) -> bool {
    let word = text.as_bytes().trim_ascii_start().first_chunk().map(word_of);
    word.is_some_and(|word| word == word_of(b"UPDATE") || word == word_of(b"DELETE"))
}

/// Returns the column that an UPDATE or DELETE compares with a parameter that is NULL, so that it never
/// matches a row. `is_null` takes the number of a parameter, counted from 1.
///
/// Only cases that are certain count: `column = ?` as the whole WHERE, or as one of several conditions that
/// are joined by AND.
pub(crate) fn column_compared_with_null(
    syntax: Syntax,
    text: &str,
    is_null: impl Fn(usize) -> bool,
) -> Option<String> {
    let tokenized = TokenizedText::usual(syntax, text);
    let tokens = &tokenized.tokens;
    let index = top_level(tokens).find(|(_, token)| token.is_word("WHERE")).map(|(index, _)| index)?;
    let condition = &tokens[index + 1..];
    if !tokenized.complete
        || condition.iter().any(|token| token.is_any_word(&ALTERNATIVES) || token.is_symbol(b'|'))
    {
        return None;
    }
    let numbers = parameters(syntax, tokens);
    let compared = top_level(tokens).filter(|(at, _)| *at > index).find(|(at, token)| {
        let value = at + 1;
        let number = numbers.iter().find(|(token, _, _)| *token == value);
        let is_comparison =
            token.is_symbol(b'=') && at.checked_sub(1).is_some_and(|column| tokens[column].is_name());
        let ends = |after: usize| tokens.get(after).is_none_or(|token| token.is_any_word(&ENDS_CONDITION));
        is_comparison && number.is_some_and(|(_, number, after)| is_null(*number) && ends(*after))
    });
    let (at, _) = compared?;
    begins_condition(tokens, at - 1).then(|| tokens[at - 1].text.to_owned())
}

/// Returns whether the name at this index, with its qualifiers, is the whole left side of its comparison.
fn begins_condition(tokens: &[Token<'_>], mut name: usize) -> bool {
    while name >= 2 && tokens[name - 1].is_symbol(b'.') && tokens[name - 2].is_name() {
        name -= 2;
    }
    name.checked_sub(1).is_some_and(|before| tokens[before].is_any_word(&["WHERE", "AND"]))
}

/// Returns the tokens outside of parentheses, with their indexes.
fn top_level<'a, 't>(tokens: &'a [Token<'t>]) -> impl Iterator<Item = (usize, &'a Token<'t>)> {
    let mut depth = 0_i32;
    tokens.iter().enumerate().filter(move |(_, token)| {
        match token.kind {
            Kind::Symbol(b'(') => depth += 1,
            Kind::Symbol(b')') => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

/// Returns the parameters of a text: the index of each one's first token, its number, and the index after it.
fn parameters(syntax: Syntax, tokens: &[Token<'_>]) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    let mut largest = 0;
    for (index, token) in tokens.iter().enumerate() {
        let (number, after) = if token.is_symbol(b'?') && syntax != Syntax::Postgres {
            let next =
                tokens.get(index + 1).filter(|next| next.kind == Kind::Number && next.at == token.end());
            match next.and_then(|next| next.text.parse().ok()) {
                Some(number) => (number, index + 2),
                None => (largest + 1, index + 1),
            }
        } else {
            match token.text.strip_prefix('$').and_then(|number| number.parse().ok()) {
                Some(number) => (number, index + 1),
                None => continue,
            }
        };
        largest = largest.max(number);
        found.push((index, number, after));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(syntax: Syntax, text: &str, null: usize) -> Option<String> {
        column_compared_with_null(syntax, text, |number| number == null)
    }

    #[test]
    fn a_comparison_with_a_null_version_is_found() {
        for (syntax, text, null) in [
            (
                Syntax::Postgres,
                "UPDATE t SET n = $1, version = version + 1 WHERE id = $2 AND version = $3",
                3,
            ),
            (Syntax::MySql, "UPDATE t SET n = ?, version = version + 1 WHERE id = ? AND version = ?", 3),
            (Syntax::Sqlite, "UPDATE t SET n = ? WHERE id = ? AND t.version = ? RETURNING n", 3),
            (Syntax::Sqlite, "DELETE FROM t WHERE version = ?2 AND id = ?1", 2),
            (Syntax::Sqlite, "DELETE FROM t WHERE version = $2 AND id = $1", 2),
            (Syntax::Postgres, "DELETE FROM t WHERE version = $1", 1),
        ] {
            assert_eq!(column(syntax, text, null).as_deref(), Some("version"), "{text}");
        }
    }

    #[test]
    fn conditions_that_may_match_are_ignored() {
        for (syntax, text, null) in [
            (Syntax::MySql, "UPDATE t SET note = ? WHERE id = ? AND version = ?", 1),
            (Syntax::MySql, "UPDATE t SET n = ? WHERE version <=> ?", 2),
            (Syntax::MySql, "UPDATE t SET n = ? WHERE version <= ?", 2),
            (Syntax::MySql, "UPDATE t SET n = ? WHERE n + version = ?", 2),
            (Syntax::MySql, "UPDATE t SET n = ? WHERE version = ? + 1", 2),
            (Syntax::Postgres, "UPDATE t SET n = 1 WHERE id = $1 AND (version = $2 OR version = 0)", 2),
            (Syntax::Postgres, "UPDATE t SET n = 1 WHERE version IS NOT DISTINCT FROM $1", 1),
            (Syntax::Postgres, "UPDATE t SET n = 1 WHERE NOT (version = $1)", 1),
            (Syntax::Postgres, "UPDATE t SET n = 1 -- WHERE version = $1", 1),
            (Syntax::Postgres, "UPDATE t SET n = (SELECT 1 FROM u WHERE version = $1)", 1),
        ] {
            assert_eq!(column(syntax, text, null), None, "{text}");
        }
    }

    #[test]
    fn updates_and_deletes_are_recognized() {
        assert!(is_update_or_delete("  update t SET n = 1") && is_update_or_delete("DELETE FROM t"));
        assert!(!is_update_or_delete("INSERT INTO t VALUES (1)") && !is_update_or_delete("UPD"));
    }
}
