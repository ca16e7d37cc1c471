//! Parses the locking clauses of a SELECT, because `sqlparser` does not accept all their forms.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use crate::row_lock::Strength;

use super::names::is_keyword;
use super::rows::TableRef;

/// A locking clause, such as `FOR UPDATE OF a, b NOWAIT`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::testing) struct Clause {
    pub(super) strength: Strength,
    /// The tables that it names; if empty, it applies to all tables.
    pub(super) of: Vec<String>,
    pub(super) waits: bool,
}

impl Clause {
    /// Whether rows that one transaction locks in this way can be locked so by others.
    pub(in crate::testing) const fn is_shared(&self) -> bool {
        matches!(self.strength, Strength::Share | Strength::KeyShare)
    }

    pub(super) fn applies_to(&self, table: &TableRef<'_>) -> bool {
        self.of.is_empty() || self.of.iter().any(|name| table.is_called(name))
    }
}

const FORMS: [(&[Keyword], Strength); 5] = [
    (&[Keyword::FOR, Keyword::UPDATE], Strength::Update),
    (&[Keyword::FOR, Keyword::NO, Keyword::KEY, Keyword::UPDATE], Strength::NoKeyUpdate),
    (&[Keyword::FOR, Keyword::SHARE], Strength::Share),
    (&[Keyword::FOR, Keyword::KEY, Keyword::SHARE], Strength::KeyShare),
    (&[Keyword::LOCK, Keyword::IN, Keyword::SHARE, Keyword::MODE], Strength::Share),
];

/// The strength of the clause that begins here, and how many words name it.
fn strength_at(tokens: &[Token]) -> Option<(Strength, usize)> {
    FORMS.iter().find_map(|(words, strength)| {
        let is_match = words.len() <= tokens.len()
            && words.iter().zip(tokens).all(|(word, token)| is_keyword(token, *word));
        is_match.then_some((*strength, words.len()))
    })
}

/// Splits a statement into the rest and its locking clauses.
pub(in crate::testing) fn take_clauses(tokens: &[Token]) -> (Vec<Token>, Vec<Clause>) {
    let (mut rest, mut clauses) = (Vec::with_capacity(tokens.len()), Vec::new());
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(token) = tokens.get(at) {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        match strength_at(&tokens[at..]) {
            Some((strength, words)) if depth == 0 => {
                at += words;
                let (clause, words) = clause(strength, &tokens[at..]);
                at += words;
                clauses.push(clause);
            }
            _ => {
                rest.push(token.clone());
                at += 1;
            }
        }
    }
    (rest, clauses)
}

/// Whether there is a locking clause inside parentheses.
pub(super) fn has_nested_clause(tokens: &[Token]) -> bool {
    let (rest, _) = take_clauses(tokens);
    (0..rest.len()).any(|at| strength_at(&rest[at..]).is_some())
}

/// Parses what follows the strength. Returns the clause and how many words were parsed.
fn clause(strength: Strength, tokens: &[Token]) -> (Clause, usize) {
    let mut clause = Clause { strength, of: Vec::new(), waits: true };
    let mut at = 0;
    if tokens.first().is_some_and(|token| is_keyword(token, Keyword::OF)) {
        at = 1;
        while let Some(Token::Word(word)) = tokens.get(at) {
            clause.of.push(word.value.to_lowercase());
            at += 1;
            if tokens.get(at) != Some(&Token::Comma) {
                break;
            }
            at += 1;
        }
    }
    let rest = &tokens[at.min(tokens.len())..];
    let begins_with = |words: [Keyword; 2]| {
        rest.len() >= 2 && words.iter().zip(rest).all(|(word, token)| is_keyword(token, *word))
    };
    if rest.first().is_some_and(|token| is_keyword(token, Keyword::NOWAIT)) {
        (Clause { waits: false, ..clause }, at + 1)
    } else if begins_with([Keyword::SKIP, Keyword::LOCKED]) {
        (Clause { waits: false, ..clause }, at + 2)
    } else {
        (clause, at)
    }
}
