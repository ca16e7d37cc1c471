//! Parses FROM clauses.

use super::super::{Kind, Syntax, Token};
use super::{Tokens, is_query};

/// An item of a FROM clause.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a, 't> {
    /// A table or a view: its name, and the name by which the statement refers to it.
    Table { name: Token<'t>, alias: Token<'t>, qualified: bool },
    /// A query in brackets.
    Query(&'a [Token<'t>]),
    /// Rows that do not belong to a table: a function, `DUAL`.
    Rows,
    /// An item that could not be parsed.
    Unknown,
}

/// Returns the items of a FROM clause, and whether they are joined by an outer join.
pub(super) fn items<'a, 't>(syntax: Syntax, from: &'a [Token<'t>]) -> (Vec<Item<'a, 't>>, bool) {
    let mut reader = FromReader { syntax, items: Vec::new(), has_outer_join: false };
    reader.read(from);
    (reader.items, reader.has_outer_join)
}

struct FromReader<'a, 't> {
    syntax: Syntax,
    items: Vec<Item<'a, 't>>,
    has_outer_join: bool,
}

/// Words after the name of a table that are not an alias.
const NO_ALIAS: [&str; 21] = [
    "JOIN",
    "STRAIGHT_JOIN",
    "INNER",
    "CROSS",
    "LEFT",
    "RIGHT",
    "FULL",
    "NATURAL",
    "ON",
    "USING",
    "USE",
    "FORCE",
    "IGNORE",
    "PARTITION",
    "FOR",
    "TABLESAMPLE",
    "WITH",
    "SET",
    "INDEXED",
    "NOT",
    "OUTER",
];

impl<'a, 't> FromReader<'a, 't> {
    fn read(&mut self, from: &'a [Token<'t>]) {
        let tokens = Tokens(from);
        let mut at = 0;
        while at < from.len() {
            at = self.item(tokens, at);
            // Skip the alias, the hints and the condition, up to the next item.
            while at < from.len() {
                let is_join = tokens.is_keyword(at, &["JOIN", "STRAIGHT_JOIN"])
                    && !at.checked_sub(1).is_some_and(|before| tokens.has(before, &["FOR"]));
                if tokens.has_symbol(at, b',') || is_join {
                    at += 1;
                    break;
                }
                if tokens.is_keyword(at, &["LEFT", "RIGHT", "FULL"]) && tokens.has(at + 1, &["JOIN", "OUTER"])
                {
                    self.has_outer_join = true;
                }
                at = tokens.after(at);
            }
        }
    }

    /// Parses the item at this index, and returns the index after it.
    fn item(&mut self, tokens: Tokens<'a, 't>, mut at: usize) -> usize {
        let only = self.syntax == Syntax::Postgres && tokens.has(at, &["ONLY"]);
        if only || tokens.has(at, &["LATERAL"]) {
            at += 1;
        }
        if tokens.has_symbol(at, b'(') {
            let inside = tokens.inside(at);
            if only {
                self.read(inside);
            } else if is_query(inside) {
                self.items.push(Item::Query(inside));
            } else {
                self.read(inside);
            }
            return tokens.after(at);
        }
        if tokens.has(at, &["ROWS"]) && tokens.has(at + 1, &["FROM"]) && tokens.has_symbol(at + 2, b'(') {
            self.items.push(Item::Rows);
            return tokens.after(at + 2);
        }
        let Some(mut name) = tokens.get(at).filter(|token| token.is_name()).copied() else {
            self.items.push(Item::Unknown);
            return at + 1;
        };
        let mut qualified = false;
        at += 1;
        while tokens.has_symbol(at, b'.')
            && let Some(next) = tokens.get(at + 1).filter(|next| next.is_name() || next.kind == Kind::Number)
        {
            (name, qualified) = (*next, true);
            at += 2;
        }
        if tokens.has_symbol(at, b'(') {
            self.items.push(Item::Rows);
            return tokens.after(at);
        }
        if !qualified && name.is_any_word(self.no_tables()) {
            self.items.push(Item::Rows);
            return at;
        }
        let alias = self.alias(tokens, at).unwrap_or(name);
        self.items.push(Item::Table { name, alias, qualified });
        at
    }

    /// Returns the names without brackets that are not tables.
    fn no_tables(&self) -> &'static [&'static str] {
        match self.syntax {
            Syntax::MySql => &["DUAL"],
            Syntax::Postgres => &[
                "CURRENT_DATE",
                "CURRENT_TIME",
                "CURRENT_TIMESTAMP",
                "LOCALTIME",
                "LOCALTIMESTAMP",
                "CURRENT_ROLE",
                "CURRENT_USER",
                "SESSION_USER",
                "SYSTEM_USER",
                "USER",
                "CURRENT_CATALOG",
                "CURRENT_SCHEMA",
            ],
            Syntax::Sqlite => &[],
        }
    }

    fn alias(&self, tokens: Tokens<'a, 't>, mut at: usize) -> Option<Token<'t>> {
        if self.syntax == Syntax::MySql && tokens.has(at, &["PARTITION"]) {
            at = tokens.after(at + 1);
        }
        if self.syntax == Syntax::Postgres && tokens.has_symbol(at, b'*') {
            at += 1;
        }
        if tokens.has(at, &["AS"]) {
            return tokens.get(at + 1).filter(|token| token.is_name()).copied();
        }
        tokens.get(at).filter(|token| token.is_name() && !token.is_any_word(&NO_ALIAS)).copied()
    }
}
