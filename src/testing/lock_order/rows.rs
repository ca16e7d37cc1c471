//! Which rows a condition names by their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlparser::ast::{self, BinaryOperator, Expr, TableFactor};

use crate::row_lock::Strength;

use super::catalog::Catalog;
use super::report::Unclear;
use super::sql::{Effect, Locking};
use super::trace::{Granted, Lock};
use super::values::{by_value, value_of};

/// What is known of the keys of tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    /// Which columns tell a table's rows apart, by [`LockOrder::key`](super::LockOrder::key).
    pub(super) told: Arc<BTreeMap<String, Vec<String>>>,
    pub(super) catalog: Arc<Catalog>,
}

/// A table that a statement names, and what tells its rows apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    /// The columns that name a row; none where no columns do.
    pub(super) key: Vec<String>,
    /// Whether somebody said so, or `id` is only assumed.
    pub(super) is_known: bool,
    /// Its other unique keys, where all of them are known.
    pub(super) others: Option<Vec<Vec<String>>>,
}

impl Keys {
    pub(super) fn of(&self, table: &ast::ObjectName) -> Named {
        let parts: Vec<String> = table.0.iter().filter_map(|part| part.as_ident()).map(name_of).collect();
        let spelled = parts.join(".");
        let known = self.catalog.table(&spelled);
        let name = known.map_or_else(|| spelled.clone(), |known| known.name.clone());
        let told = self.told.get(&spelled).or_else(|| self.told.get(&name));
        let all = known.map(|known| std::iter::once(&known.key).chain(&known.others));
        let key = match (told, known) {
            (Some(told), _) => told.clone(),
            (None, Some(known)) => known.key.clone(),
            (None, None) => vec![String::from("id")],
        };
        let others = all
            .filter(|_| known.is_some_and(|known| !known.has_more))
            .map(|all| all.filter(|other| !other.is_empty() && **other != key).cloned().collect());
        Named { name, is_known: told.is_some() || known.is_some(), key, others }
    }
}

/// Names are compared without their case and quotes: two tables that differ by these alone are not worth a
/// surprise.
pub(super) fn name_of(name: &ast::Ident) -> String {
    name.value.to_lowercase()
}

pub(super) fn last_name(name: &ast::ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(name_of).unwrap_or_default()
}

/// A table of a statement.
#[derive(Debug)]
pub(super) struct Table<'s> {
    pub(super) named: Named,
    alias: Option<&'s ast::Ident>,
}

impl Table<'_> {
    pub(super) fn is_called(&self, name: &str) -> bool {
        match self.alias {
            Some(alias) => name_of(alias) == name,
            None => self.named.name.rsplit('.').next() == Some(name),
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
                    let alias = alias.as_ref().map(|alias| &alias.name);
                    scope.tables.push(Table { named: keys.of(name), alias });
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
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !table.named.is_known {
            effects.push(Effect::Unclear(Unclear::Keys));
        }
        let Some(mut locks) = self.rows(table) else {
            effects.push(Effect::Unclear(Unclear::Rows));
            return effects;
        };
        let sorted = self.sort(table, order, &mut locks);
        let (ordered, granted) = (sorted || locks.len() < 2, Granted::IfRows(locks.len()));
        effects.push(Effect::Locks(Locking { locks, strength, waits, ordered, granted, outlives: false }));
        effects
    }

    /// Sorts rows as the statement does. Returns whether it says in which order it comes to them.
    fn sort(&self, table: &Table<'_>, order: &[ast::OrderByExpr], locks: &mut [Lock]) -> bool {
        let key = &table.named.key;
        let place = |by: &ast::OrderByExpr| {
            let place = key.iter().position(|column| self.is_column(table, column, &by.expr))?;
            Some((place, by.options.sort == Some(ast::OrderBySort::Desc)))
        };
        let by: Vec<(usize, bool)> = order.iter().map_while(place).collect();
        let varies = |place: usize| {
            let value = |lock: &Lock| match lock {
                Lock::Row { values, .. } => values.get(place).cloned(),
                Lock::Advisory(_) => None,
            };
            locks.windows(2).any(|pair| value(&pair[0]) != value(&pair[1]))
        };
        let is_sorted = (0..key.len()).all(|place| !varies(place) || by.iter().any(|by| by.0 == place));
        if !by.is_empty() {
            locks.sort_by(|one, other| by_value(one, other, &by));
        }
        is_sorted && !by.is_empty()
    }

    /// The rows of a table that are meant at most, where their keys are said.
    pub(super) fn rows(&self, table: &Table<'_>) -> Option<Vec<Lock>> {
        let Named { name, key, .. } = &table.named;
        if key.is_empty() {
            return None;
        }
        let mut rows = vec![Vec::new()];
        for column in key {
            let values = self.values(table, column)?;
            let with = |row: &Vec<String>, value: &String| row.iter().chain([value]).cloned().collect();
            rows = rows.iter().flat_map(|row| values.iter().map(move |value| with(row, value))).collect();
        }
        let mut locks = Vec::with_capacity(rows.len());
        for values in rows {
            let row = Lock::Row { table: name.clone(), columns: key.clone(), values };
            if !locks.contains(&row) {
                locks.push(row);
            }
        }
        Some(locks)
    }

    /// The values that a column can have in the rows that are meant.
    pub(super) fn values(&self, table: &Table<'_>, column: &str) -> Option<Vec<String>> {
        self.conditions.iter().find_map(|condition| match condition {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let value = match (self.is_column(table, column, left), self.is_column(table, column, right))
                {
                    (true, _) => right,
                    (_, true) => left,
                    (false, false) => return None,
                };
                Some(vec![value_of(value, self.arguments)?])
            }
            Expr::InList { expr, list, negated: false } if self.is_column(table, column, expr) => {
                list.iter().map(|value| value_of(value, self.arguments)).collect()
            }
            _ => None,
        })
    }

    fn is_column(&self, table: &Table<'_>, column: &str, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => self.is_only_table() && name_of(name) == column,
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [.., owner, name] => name_of(name) == column && table.is_called(&name_of(owner)),
                _ => false,
            },
            Expr::Nested(inner) => self.is_column(table, column, inner),
            _ => false,
        }
    }

    fn is_only_table(&self) -> bool {
        self.tables.len() == 1 && !self.has_more
    }
}
