//! Appends a lock clause to a SELECT if the clause locks the rows that it reads.
//!
//! Servers accept a lock clause even on queries whose rows the clause does not lock. A text is therefore
//! refused unless the clause is known to apply to all of its rows. The rules were determined on servers, and
//! are tested on servers.

use std::borrow::Cow;

use super::{Kind, Syntax, Token, TokenizedText};

mod from;
mod functions;
mod select;

/// Why the rows of a text cannot be locked, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    reason: Cow<'static, str>,
    remedy: Remedy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Lock the rows with a separate SELECT.
    SeparateSelect,
    /// Lock the rows with a separate SELECT, or name the table in the lock.
    NameTheTable,
    /// Remove a part of the text.
    RemoveIt,
}

impl Obstacle {
    fn new(reason: impl Into<Cow<'static, str>>, remedy: Remedy) -> Self {
        Self { reason: reason.into(), remedy }
    }

    /// Returns the error message.
    pub(crate) fn explain(&self, syntax: Syntax) -> String {
        let remedy = match self.remedy {
            Remedy::RemoveIt => "remove that, or run the text without `for_update`",
            Remedy::NameTheTable if syntax == Syntax::Postgres => {
                "lock the table's rows with a SELECT of their own, or name the table: \
                 RowLock::NO_KEY_UPDATE.of(\"event\")"
            }
            Remedy::NameTheTable | Remedy::SeparateSelect => {
                "lock the table's rows with a SELECT of their own"
            }
        };
        format!("cannot lock the rows of this query on {}: {}; {remedy}", syntax.databases(), self.reason)
    }
}

/// Appends a lock clause to a SELECT. Without a clause, it only checks the text and returns `None`. `table`
/// is the one that the clause names. Fails if the clause would not lock the rows that the text reads.
///
/// The clause is inserted after the last token, on a line of its own. Comments follow it; semicolons are
/// removed.
pub(crate) fn with_lock_clause(
    syntax: Syntax,
    text: &str,
    table: Option<&str>,
    clause: Option<&str>,
) -> Result<Option<String>, Obstacle> {
    let tokenized = TokenizedText::usual(syntax, text);
    let tokens = only_statement(syntax, &tokenized)?;
    if syntax == Syntax::Sqlite {
        select::check_select(tokens)?;
    } else {
        if let Some(other) = TokenizedText::unusual(syntax, text)
            && other.complete
            && other != tokenized
        {
            return Err(Obstacle::new(
                "its strings contain backslashes, whose meaning depends on settings of the session",
                Remedy::RemoveIt,
            ));
        }
        select::check_lockable(syntax, tokens, table)?;
    }
    let (Some(clause), Some(last)) = (clause, tokens.last()) else { return Ok(None) };
    let (front, after) = text.split_at(last.end());
    let mut locked = String::with_capacity(text.len() + clause.len() + 2);
    locked.push_str(front);
    locked.push('\n');
    locked.push_str(clause);
    // Only comments, and semicolons between them, follow.
    let mut from = 0;
    let semicolons = tokenized.tokens.iter().filter(|token| token.at >= last.end());
    let ends = semicolons.map(|token| token.at - last.end()).chain([after.len()]);
    for end in ends {
        let comment = after.get(from..end).unwrap_or_default().trim();
        if !comment.is_empty() {
            locked.push('\n');
            locked.push_str(comment);
        }
        from = end + 1;
    }
    Ok(Some(locked))
}

/// Returns the tokens of the text's only statement.
fn only_statement<'a, 't>(
    syntax: Syntax,
    tokenized: &'a TokenizedText<'t>,
) -> Result<&'a [Token<'t>], Obstacle> {
    if !tokenized.complete {
        return Err(Obstacle::new(
            "it has a string or a comment that does not end, or a comment within an executable comment",
            Remedy::SeparateSelect,
        ));
    }
    if tokenized.tokens.iter().any(|token| token.executable_comment.is_some()) {
        return Err(Obstacle::new(
            "it has an executable comment, which some servers execute and others ignore",
            Remedy::RemoveIt,
        ));
    }
    let mut statements =
        tokenized.tokens.split(|token| token.is_symbol(b';')).filter(|tokens| !tokens.is_empty());
    match (statements.next(), statements.next()) {
        (Some(tokens), None) => Ok(tokens),
        (None, _) => Err(Obstacle::new("it is empty", Remedy::SeparateSelect)),
        (Some(_), Some(_)) => Err(Obstacle::new(
            format!(
                "it consists of several statements on {}, and the clause would apply to one of them",
                syntax.databases()
            ),
            Remedy::SeparateSelect,
        )),
    }
}

/// Tokens that are traversed without the contents of brackets.
#[derive(Debug, Clone, Copy)]
struct Tokens<'a, 't>(&'a [Token<'t>]);

impl<'a, 't> Tokens<'a, 't> {
    /// Returns the indexes of the tokens outside of brackets, opening brackets included.
    fn outside(self) -> impl Iterator<Item = usize> + 'a
    where
        't: 'a,
    {
        let mut next = 0;
        std::iter::from_fn(move || {
            let index = next;
            self.0.get(index)?;
            next = self.after(index);
            Some(index)
        })
    }

    /// Returns the index after the token at `index`, or after the bracket that opens there.
    fn after(self, index: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.0.iter().enumerate().skip(index) {
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

    /// Returns the tokens within the bracket that opens at `index`.
    fn inside(self, index: usize) -> &'a [Token<'t>] {
        let end = self.after(index);
        self.0.get(index + 1..end.saturating_sub(1)).unwrap_or_default()
    }

    fn get(self, index: usize) -> Option<&'a Token<'t>> {
        self.0.get(index)
    }

    /// Returns whether the token at `index` is one of these keywords, and not a name after a dot or AS.
    fn is_keyword(self, index: usize, words: &[&str]) -> bool {
        let is_name = || {
            let before = index.checked_sub(1).and_then(|before| self.get(before));
            before.is_some_and(|before| before.is_symbol(b'.') || before.is_word("AS"))
        };
        self.has(index, words) && !is_name()
    }

    fn has(self, index: usize, words: &[&str]) -> bool {
        self.get(index).is_some_and(|token| token.is_any_word(words))
    }

    fn has_symbol(self, index: usize, symbol: u8) -> bool {
        self.get(index).is_some_and(|token| token.is_symbol(symbol))
    }
}

/// Returns whether the tokens within a bracket are a query, and not a list or a join.
fn is_query(inside: &[Token<'_>]) -> bool {
    let tokens = Tokens(inside);
    if tokens.has(0, &["SELECT", "WITH", "VALUES", "TABLE"]) {
        return true;
    }
    // `(SELECT …) UNION …`, but not `(SELECT …) AS a JOIN …`.
    let goes_on = ["UNION", "INTERSECT", "EXCEPT", "MINUS", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"];
    tokens.has_symbol(0, b'(') && is_query(tokens.inside(0)) && {
        let after = tokens.after(0);
        after >= inside.len() || tokens.has(after, &goes_on)
    }
}

#[cfg(test)]
mod tests;
