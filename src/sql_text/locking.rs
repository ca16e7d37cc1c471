//! A lock clause for a SELECT, where one reaches its rows.
//!
//! Servers accept the clause behind texts whose rows it does not reach, and lock nothing. So a text is
//! refused unless all of its parts are known to be reached; what each database does was tried on a server,
//! and is tested on one.

use std::borrow::Cow;

use super::{Kind, Syntax, Token, TokenizedText};

mod from;
mod functions;
mod select;

/// Why the rows of a text cannot be locked, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    why: Cow<'static, str>,
    instead: Instead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// The text is no SELECT of rows.
    SelectOfItsOwn,
    /// The same, or the table is named.
    NameTheTable,
    /// Something is to be taken out of the text.
    LeaveItOut,
}

impl Obstacle {
    fn new(why: impl Into<Cow<'static, str>>, instead: Instead) -> Self {
        Self { why: why.into(), instead }
    }

    /// The whole sentence.
    pub(crate) fn explain(&self, syntax: Syntax) -> String {
        let instead = match self.instead {
            Instead::LeaveItOut => "leave it out, or run the text without `for_update`",
            Instead::NameTheTable if syntax == Syntax::Postgres => {
                "lock the table's rows by a SELECT of their own, or name the table: \
                 RowLock::NO_KEY_UPDATE.of(\"event\")"
            }
            Instead::NameTheTable | Instead::SelectOfItsOwn => {
                "lock the table's rows by a SELECT of their own"
            }
        };
        format!("cannot lock the rows of this query on {}: {}; {instead}", syntax.databases(), self.why)
    }
}

/// The text of a SELECT with this clause; unchanged without one. `table` is the one that the clause names.
///
/// The clause goes behind the last token, on a line of its own: what follows is a semicolon, which is left
/// out, and comments. An error says why the clause would not lock the rows that the text reads.
pub(crate) fn with_lock_clause(
    syntax: Syntax,
    text: &str,
    table: Option<&str>,
    clause: Option<&str>,
) -> Result<Option<String>, Obstacle> {
    let reading = TokenizedText::usual(syntax, text);
    let tokens = only_statement(syntax, &reading)?;
    if syntax == Syntax::Sqlite {
        select::is_select(tokens)?;
    } else {
        if let Some(other) = TokenizedText::unusual(syntax, text)
            && other.complete
            && other != reading
        {
            return Err(Obstacle::new(
                "its strings hold backslashes, which the settings of the session give one meaning or another",
                Instead::LeaveItOut,
            ));
        }
        select::can_be_locked(syntax, tokens, table)?;
    }
    let (Some(clause), Some(last)) = (clause, tokens.last()) else { return Ok(None) };
    let (front, behind) = text.split_at(last.end());
    let mut locked = String::with_capacity(text.len() + clause.len() + 2);
    locked.push_str(front);
    locked.push('\n');
    locked.push_str(clause);
    // Comments; the semicolons between them are tokens, and the only ones.
    let mut from = 0;
    let semicolons = reading.tokens.iter().filter(|token| token.at >= last.end());
    let ends = semicolons.map(|token| token.at - last.end()).chain([behind.len()]);
    for end in ends {
        let comment = behind.get(from..end).unwrap_or_default().trim();
        if !comment.is_empty() {
            locked.push('\n');
            locked.push_str(comment);
        }
        from = end + 1;
    }
    Ok(Some(locked))
}

/// The tokens of the one statement that the text consists of.
fn only_statement<'a, 't>(
    syntax: Syntax,
    reading: &'a TokenizedText<'t>,
) -> Result<&'a [Token<'t>], Obstacle> {
    if !reading.complete {
        return Err(Obstacle::new(
            "it has a string or a comment that does not end, or one within an executable comment",
            Instead::SelectOfItsOwn,
        ));
    }
    if reading.tokens.iter().any(|token| token.hint.is_some()) {
        return Err(Obstacle::new(
            "it has an executable comment, of which each server decides whether it is part of the text",
            Instead::LeaveItOut,
        ));
    }
    let mut statements =
        reading.tokens.split(|token| token.is_symbol(b';')).filter(|tokens| !tokens.is_empty());
    match (statements.next(), statements.next()) {
        (Some(tokens), None) => Ok(tokens),
        (None, _) => Err(Obstacle::new("it is empty", Instead::SelectOfItsOwn)),
        (Some(_), Some(_)) => Err(Obstacle::new(
            format!("it is several statements for {}, and a clause would lock one", syntax.databases()),
            Instead::SelectOfItsOwn,
        )),
    }
}

/// Walks over tokens and steps over what is in brackets.
#[derive(Debug, Clone, Copy)]
struct Tokens<'a, 't>(&'a [Token<'t>]);

impl<'a, 't> Tokens<'a, 't> {
    /// The places of the tokens that are in no bracket but the opening ones themselves.
    fn outside(self) -> impl Iterator<Item = usize> + 'a
    where
        't: 'a,
    {
        let mut next = 0;
        std::iter::from_fn(move || {
            let place = next;
            self.0.get(place)?;
            next = self.behind(place);
            Some(place)
        })
    }

    /// The place behind the token at this one, or behind the bracket that opens there.
    fn behind(self, place: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.0.iter().enumerate().skip(place) {
            match token.kind {
                Kind::Symbol(b'(' | b'[' | b'{') => depth += 1,
                Kind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at + 1;
            }
        }
        self.0.len()
    }

    /// What is in the bracket that opens at this place.
    fn inside(self, place: usize) -> &'a [Token<'t>] {
        let end = self.behind(place);
        self.0.get(place + 1..end.saturating_sub(1)).unwrap_or_default()
    }

    fn get(self, place: usize) -> Option<&'a Token<'t>> {
        self.0.get(place)
    }

    /// Whether the token at this place is a keyword and one of these: not a name behind a dot, nor one given
    /// by AS.
    fn is_keyword(self, place: usize, words: &[&str]) -> bool {
        let is_name = || {
            let before = place.checked_sub(1).and_then(|before| self.get(before));
            before.is_some_and(|before| before.is_symbol(b'.') || before.is_word("AS"))
        };
        self.has(place, words) && !is_name()
    }

    fn has(self, place: usize, words: &[&str]) -> bool {
        self.get(place).is_some_and(|token| token.is_any_word(words))
    }

    fn has_symbol(self, place: usize, symbol: u8) -> bool {
        self.get(place).is_some_and(|token| token.is_symbol(symbol))
    }
}

/// Whether what is in a bracket is a query, rather than a list or a join.
fn is_query(inside: &[Token<'_>]) -> bool {
    let tokens = Tokens(inside);
    if tokens.has(0, &["SELECT", "WITH", "VALUES", "TABLE"]) {
        return true;
    }
    // `(SELECT …) UNION …`, but not `(SELECT …) AS a JOIN …`.
    let goes_on = ["UNION", "INTERSECT", "EXCEPT", "MINUS", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"];
    tokens.has_symbol(0, b'(') && is_query(tokens.inside(0)) && {
        let behind = tokens.behind(0);
        behind >= inside.len() || tokens.has(behind, &goes_on)
    }
}

#[cfg(test)]
mod tests;
