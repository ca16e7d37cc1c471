//! Which rows a condition names by their keys.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sqlparser::ast::{self, BinaryOperator, Expr, TableFactor, UnaryOperator, Value};
use sqlparser::tokenizer::Token;

use crate::lock::Strength;

use super::report::Unclear;
use super::sql::Effect;
use super::trace::Lock;

/// Which column tells a table's rows apart, where it is not `id`.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(pub(super) BTreeMap<String, String>);

impl Keys {
    /// A table's name, and its key column.
    pub(super) fn of(&self, table: &ast::ObjectName) -> (String, String) {
        let parts: Vec<String> = table.0.iter().filter_map(|part| part.as_ident()).map(name_of).collect();
        let name = parts.join(".");
        let key = self.0.get(&name).cloned().unwrap_or_else(|| String::from("id"));
        (name, key)
    }
}

/// Names are compared without their case and quotes: two tables that differ by these alone are not worth a surprise.
pub(super) fn name_of(name: &ast::Ident) -> String {
    name.value.to_lowercase()
}

pub(super) fn last_name(name: &ast::ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(name_of).unwrap_or_default()
}

/// A table of a statement.
#[derive(Debug)]
pub(super) struct Table<'s> {
    name: String,
    key: String,
    alias: Option<&'s ast::Ident>,
}

impl Table<'_> {
    pub(super) fn is_called(&self, name: &str) -> bool {
        match self.alias {
            Some(alias) => name_of(alias) == name,
            None => self.name.rsplit('.').next() == Some(name),
        }
    }
}

/// The tables of a statement, and what it says about their rows.
pub(super) struct Scope<'s> {
    arguments: &'s [String],
    tables: Vec<Table<'s>>,
    /// Whether there is something that is no table: a subquery, a function.
    pub(super) has_more: bool,
    conditions: Vec<&'s Expr>,
}

impl<'s> Scope<'s> {
    pub(super) fn new(
        keys: &Keys,
        arguments: &'s [String],
        from: &'s [ast::TableWithJoins],
        selection: Option<&'s Expr>,
    ) -> Self {
        let mut scope = Self { arguments, tables: Vec::new(), has_more: false, conditions: Vec::new() };
        let factors = from.iter().flat_map(|from| {
            [&from.relation].into_iter().chain(from.joins.iter().map(|join| &join.relation))
        });
        for factor in factors {
            match factor {
                TableFactor::Table { name, alias, args: None, .. } => {
                    let (name, key) = keys.of(name);
                    scope.tables.push(Table { name, key, alias: alias.as_ref().map(|alias| &alias.name) });
                }
                _ => scope.has_more = true,
            }
        }
        scope.conditions.extend(selection);
        let mut next = 0;
        while let Some(condition) = scope.conditions.get(next).copied() {
            match condition {
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                    scope.conditions.splice(next..=next, [&**left, &**right]);
                }
                Expr::Nested(inner) => scope.conditions[next] = inner,
                _ => next += 1,
            }
        }
        scope
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table<'s>> {
        self.tables.iter()
    }

    /// What locking the rows of a table does.
    pub(super) fn locks(
        &self,
        table: &Table<'_>,
        order: &[ast::OrderByExpr],
        strength: Strength,
        waits: bool,
    ) -> Effect {
        let Some(mut locks) = self.rows(table) else { return Effect::Unclear(Unclear::Rows) };
        let first = order.first().filter(|first| self.is_key(table, &first.expr));
        let descends = first.is_some_and(|first| first.options.sort == Some(ast::OrderBySort::Desc));
        if first.is_some() {
            locks.sort_by(by_value);
        }
        if descends {
            locks.reverse();
        }
        Effect::Locks { ordered: first.is_some() || locks.len() < 2, locks, strength, waits }
    }

    /// The rows of a table that are meant at most, where their keys are said.
    pub(super) fn rows(&self, table: &Table<'_>) -> Option<Vec<Lock>> {
        let values = self.conditions.iter().find_map(|condition| match condition {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let value = match (self.is_key(table, left), self.is_key(table, right)) {
                    (true, _) => right,
                    (_, true) => left,
                    (false, false) => return None,
                };
                Some(vec![value_of(value, self.arguments)?])
            }
            Expr::InList { expr, list, negated: false } if self.is_key(table, expr) => {
                list.iter().map(|value| value_of(value, self.arguments)).collect()
            }
            _ => None,
        })?;
        let mut rows = Vec::with_capacity(values.len());
        for value in values {
            let row = Lock::Row { table: table.name.clone(), column: table.key.clone(), value };
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        Some(rows)
    }

    fn is_key(&self, table: &Table<'_>, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => self.is_only_table() && name_of(name) == table.key,
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [.., owner, name] => name_of(name) == table.key && table.is_called(&name_of(owner)),
                _ => false,
            },
            Expr::Nested(inner) => self.is_key(table, inner),
            _ => false,
        }
    }

    pub(super) fn is_key_name(&self, table: &Table<'_>, name: &ast::ObjectName) -> bool {
        last_name(name) == table.key
    }

    fn is_only_table(&self) -> bool {
        self.tables.len() == 1 && !self.has_more
    }
}

/// Numbers by their value and everything else by its bytes, which is not how every database sorts text.
fn by_value(one: &Lock, other: &Lock) -> Ordering {
    match (one, other) {
        (Lock::Row { value: one, .. }, Lock::Row { value: other, .. }) => {
            match (one.parse::<i128>(), other.parse::<i128>()) {
                (Ok(one), Ok(other)) => one.cmp(&other),
                _ => one.cmp(other),
            }
        }
        _ => Ordering::Equal,
    }
}

/// A value that is written out or bound, without its quotes: `1` and `'1'` are the same key.
pub(super) fn value_of(expr: &Expr, arguments: &[String]) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Some(number.clone()),
            Value::Boolean(is_true) => Some(is_true.to_string()),
            Value::HexStringLiteral(digits) => Some(format!("x'{}'", digits.to_lowercase())),
            Value::Placeholder(name) => argument(name, arguments),
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        Expr::TypedString(typed) => typed.value.clone().into_string(),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => value_of(expr, arguments),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Some(format!("-{}", value_of(expr, arguments)?)),
        _ => None,
    }
}

/// The same for a word of a text.
pub(super) fn token_value(token: &Token, arguments: &[String]) -> Option<String> {
    match token {
        Token::Placeholder(name) => argument(name, arguments),
        Token::SingleQuotedString(text) => Some(text.clone()),
        token => Some(token.to_string()),
    }
}

/// What is bound to `$1` or `?1`, where it can be read and is no NULL, which no row has for a key.
fn argument(name: &str, arguments: &[String]) -> Option<String> {
    let number: usize = name.trim_start_matches(['$', '?']).parse().ok()?;
    let shown = arguments.get(number.checked_sub(1)?)?;
    match shown.strip_prefix('\'').and_then(|shown| shown.strip_suffix('\'')) {
        Some(text) => Some(text.replace("''", "'")),
        None if shown == "NULL" || shown == "…" => None,
        None => Some(shown.clone()),
    }
}
