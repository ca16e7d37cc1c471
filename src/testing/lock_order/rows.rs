//! The rows that a condition identifies by their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlparser::ast::{self, BinaryOperator, Expr, TableFactor};

use crate::row_lock::Strength;

use super::catalog::Catalog;
use super::effect::{Effect, Granted, Lock, Locking};
use super::names::name_of;
use super::report::UnknownReason;
use super::values::{by_value, value_of};

/// The known keys of tables.
#[derive(Debug, Clone, Default)]
pub(super) struct TableKeys {
    /// The keys that were declared with [`LockOrder::key`](super::LockOrder::key), by table.
    pub(super) declared: Arc<BTreeMap<String, Vec<String>>>,
    pub(super) catalog: Arc<Catalog>,
}

/// A table that a statement names, and its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetTable {
    pub(super) name: String,
    /// The columns that identify a row; empty if there is no key.
    pub(super) key: Vec<String>,
    /// Whether the key is known. Otherwise it is assumed to be `id`.
    pub(super) is_known: bool,
    /// The other unique keys, if all of them are known.
    pub(super) others: Option<Vec<Vec<String>>>,
}

impl TableKeys {
    pub(super) fn of(&self, table: &ast::ObjectName) -> TargetTable {
        let parts: Vec<String> = table.0.iter().filter_map(|part| part.as_ident()).map(name_of).collect();
        let spelled = parts.join(".");
        let known = self.catalog.table(&spelled);
        let name = known.map_or_else(|| spelled.clone(), |known| known.name.clone());
        let declared = self.declared.get(&spelled).or_else(|| self.declared.get(&name));
        let all = known.map(|known| std::iter::once(&known.key).chain(&known.others));
        let key = match (declared, known) {
            (Some(declared), _) => declared.clone(),
            (None, Some(known)) => known.key.clone(),
            (None, None) => vec![String::from("id")],
        };
        let others = all
            .filter(|_| known.is_some_and(|known| !known.has_other_keys))
            .map(|all| all.filter(|other| !other.is_empty() && **other != key).cloned().collect());
        TargetTable { name, is_known: declared.is_some() || known.is_some(), key, others }
    }
}

/// A table of a statement, with its alias.
#[derive(Debug)]
pub(super) struct TableRef<'s> {
    pub(super) target: TargetTable,
    alias: Option<&'s ast::Ident>,
}

impl TableRef<'_> {
    /// Whether columns of this table can be qualified by `name`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        match self.alias {
            Some(alias) => name_of(alias) == name,
            None => self.target.name.rsplit('.').next() == Some(name),
        }
    }
}

/// The tables of a statement, and the conditions on their rows.
pub(super) struct RowSelection<'s> {
    arguments: &'s [String],
    tables: Vec<TableRef<'s>>,
    /// Whether the statement also reads from something other than tables: a subquery, a function.
    pub(super) has_more: bool,
    /// The conditions that are joined by AND.
    conditions: Vec<&'s Expr>,
}

impl<'s> RowSelection<'s> {
    pub(super) fn new(
        keys: &TableKeys,
        arguments: &'s [String],
        from: &'s [ast::TableWithJoins],
        condition: Option<&'s Expr>,
    ) -> Self {
        let mut selection = Self { arguments, tables: Vec::new(), has_more: false, conditions: Vec::new() };
        let factors = from.iter().flat_map(|from| {
            [&from.relation].into_iter().chain(from.joins.iter().map(|join| &join.relation))
        });
        for factor in factors {
            match factor {
                TableFactor::Table { name, alias, args: None, .. } => {
                    let alias = alias.as_ref().map(|alias| &alias.name);
                    selection.tables.push(TableRef { target: keys.of(name), alias });
                }
                _ => selection.has_more = true,
            }
        }
        selection.conditions.extend(condition);
        let mut next = 0;
        while let Some(condition) = selection.conditions.get(next).copied() {
            match condition {
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                    selection.conditions.splice(next..=next, [&**left, &**right]);
                }
                Expr::Nested(inner) => selection.conditions[next] = inner,
                _ => next += 1,
            }
        }
        selection
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &TableRef<'s>> {
        self.tables.iter()
    }

    /// The effects of locking the selected rows of a table.
    pub(super) fn locks(
        &self,
        table: &TableRef<'_>,
        order: &[ast::OrderByExpr],
        strength: Strength,
        waits: bool,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !table.target.is_known {
            effects.push(Effect::Unknown(UnknownReason::Keys));
        }
        let Some(mut locks) = self.rows(table) else {
            effects.push(Effect::Unknown(UnknownReason::Rows));
            return effects;
        };
        let is_sorted = self.sort(table, order, &mut locks);
        let (ordered, granted) = (is_sorted || locks.len() < 2, Granted::IfRows(locks.len()));
        effects.push(Effect::Locks(Locking { locks, strength, waits, ordered, granted, session: false }));
        effects
    }

    /// Sorts rows by the ORDER BY clause. Returns whether it determines their order.
    fn sort(&self, table: &TableRef<'_>, order: &[ast::OrderByExpr], locks: &mut [Lock]) -> bool {
        let key = &table.target.key;
        let key_column = |by: &ast::OrderByExpr| {
            let column = key.iter().position(|column| self.is_column(table, column, &by.expr))?;
            Some((column, by.options.sort == Some(ast::OrderBySort::Desc)))
        };
        let by: Vec<(usize, bool)> = order.iter().map_while(key_column).collect();
        let varies = |column: usize| {
            let value = |lock: &Lock| match lock {
                Lock::Row { values, .. } => values.get(column).cloned(),
                Lock::Advisory(_) => None,
            };
            locks.windows(2).any(|pair| value(&pair[0]) != value(&pair[1]))
        };
        let is_total = (0..key.len()).all(|column| !varies(column) || by.iter().any(|by| by.0 == column));
        if !by.is_empty() {
            locks.sort_by(|one, other| by_value(one, other, &by));
        }
        is_total && !by.is_empty()
    }

    /// The rows of a table that can be selected, if the conditions give their keys.
    pub(super) fn rows(&self, table: &TableRef<'_>) -> Option<Vec<Lock>> {
        let TargetTable { name, key, .. } = &table.target;
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

    /// The values that a column can have in the selected rows.
    pub(super) fn values(&self, table: &TableRef<'_>, column: &str) -> Option<Vec<String>> {
        self.conditions.iter().find_map(|condition| match condition {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let value = if self.is_column(table, column, left) {
                    right
                } else if self.is_column(table, column, right) {
                    left
                } else {
                    return None;
                };
                Some(vec![value_of(value, self.arguments)?])
            }
            Expr::InList { expr, list, negated: false } if self.is_column(table, column, expr) => {
                list.iter().map(|value| value_of(value, self.arguments)).collect()
            }
            _ => None,
        })
    }

    fn is_column(&self, table: &TableRef<'_>, column: &str, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => self.has_one_table() && name_of(name) == column,
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [.., owner, name] => name_of(name) == column && table.is_called(&name_of(owner)),
                _ => false,
            },
            Expr::Nested(inner) => self.is_column(table, column, inner),
            _ => false,
        }
    }

    fn has_one_table(&self) -> bool {
        self.tables.len() == 1 && !self.has_more
    }
}
