//! The locks of writes: the rows, and their entries in unique keys.

use sqlparser::ast::{self, Expr};

use crate::row_lock::Strength;

use super::effect::{Effect, Granted, Lock, Locking};
use super::names::{last_name, name_of};
use super::report::UnknownReason;
use super::rows::{RowSelection, TableRef, TargetTable};
use super::sql::Reader;
use super::values::{is_null, value_of};

/// Functions that return a value which no other row has.
const GENERATORS: [&str; 9] = [
    "gen_random_uuid",
    "nextval",
    "rand",
    "random",
    "uuid",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
    "uuid_v7",
];

/// The value that a write gives to a column.
enum Given {
    Value(String),
    /// A value that no other row can have: NULL, a default, or a generated value.
    Unique,
    Unknown,
}

impl Reader<'_> {
    pub(super) fn update(&self, update: &ast::Update) -> Vec<Effect> {
        let mut from = vec![update.table.clone()];
        if let Some(ast::UpdateTableFromKind::BeforeSet(more) | ast::UpdateTableFromKind::AfterSet(more)) =
            &update.from
        {
            from.extend(more.iter().cloned());
        }
        let rows = self.select_rows(&from, update.selection.as_ref());
        // MySQL updates all joined tables; other databases update the first and only read the others.
        let updated_tables = if update.table.joins.is_empty() { 1 } else { usize::MAX };
        let mut effects = Vec::new();
        for table in rows.tables().take(updated_tables) {
            let others = table.target.others.iter().flatten();
            let keys = [&table.target.key].into_iter().chain(others);
            let changed: Vec<_> =
                keys.filter(|key| key.iter().any(|column| assigned(update, column).is_some())).collect();
            let strength = if changed.is_empty() { Strength::NoKeyUpdate } else { Strength::Update };
            effects.extend(rows.locks(table, &update.order_by, strength, true));
            if table.target.others.is_none() && table.target.is_known {
                effects.push(Effect::Unknown(UnknownReason::Keys));
            }
            for key in changed {
                effects.extend(self.new_value(&rows, table, key, update));
            }
        }
        effects
    }

    /// The lock on the new value of a key, which keeps other transactions from writing the same value.
    fn new_value(
        &self,
        rows: &RowSelection<'_>,
        table: &TableRef<'_>,
        key: &[String],
        update: &ast::Update,
    ) -> Option<Effect> {
        let given = key.iter().map(|column| match assigned(update, column) {
            Some(Some(value)) => self.given(value),
            Some(None) => Given::Unknown,
            None => match rows.values(table, column).as_deref() {
                Some([value]) => Given::Value(value.clone()),
                _ => Given::Unknown,
            },
        });
        match key_lock(&table.target.name, key, given) {
            Ok(Some(lock)) => Some(locking(vec![lock], Granted::IfRows(1))),
            Ok(None) => None,
            Err(reason) => Some(Effect::Unknown(reason)),
        }
    }

    pub(super) fn delete(&self, delete: &ast::Delete) -> Vec<Effect> {
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
        let mut all = from.clone();
        all.extend(delete.using.iter().flatten().cloned());
        let rows = self.select_rows(&all, delete.selection.as_ref());
        match rows.tables().next() {
            Some(table) if delete.tables.is_empty() => {
                rows.locks(table, &delete.order_by, Strength::Update, true)
            }
            _ => vec![Effect::Unknown(UnknownReason::Rows)],
        }
    }

    /// An INSERT locks the unique keys of its rows: other transactions that insert the same values wait for
    /// it.
    pub(super) fn insert(&self, insert: &ast::Insert) -> Vec<Effect> {
        let ast::TableObject::TableName(table) = &insert.table else {
            return vec![Effect::Unknown(UnknownReason::Rows)];
        };
        let table = self.keys.of(table);
        let may_find_existing =
            insert.on.is_some() || insert.replace_into || insert.or.is_some() || insert.ignore;
        let mut effects = Vec::new();
        match &table.others {
            Some(others) if others.is_empty() && table.key.is_empty() => return effects,
            Some(_) => {}
            None => effects.push(Effect::Unknown(UnknownReason::Keys)),
        }
        match columns_and_rows(insert) {
            Some((columns, rows)) => {
                effects.extend(self.new_rows(&table, &columns, &rows, may_find_existing));
            }
            None => effects.push(Effect::Unknown(UnknownReason::Rows)),
        }
        // A row that conflicts in another column has an unknown primary key.
        if let Some(ast::OnInsert::OnConflict(conflict)) = &insert.on
            && matches!(conflict.action, ast::OnConflictAction::DoUpdate(_))
            && !matches!(&conflict.conflict_target, Some(ast::ConflictTarget::Columns(columns))
                if columns.iter().map(name_of).collect::<Vec<_>>() == table.key)
        {
            effects.push(Effect::Unknown(UnknownReason::Rows));
        }
        effects.dedup();
        effects
    }

    /// The locks on the unique keys of new rows, row by row.
    fn new_rows(
        &self,
        table: &TargetTable,
        columns: &[String],
        rows: &[Vec<&Expr>],
        may_find_existing: bool,
    ) -> Vec<Effect> {
        let (mut effects, mut locks) = (Vec::new(), Vec::new());
        let keys: Vec<_> = [&table.key].into_iter().chain(table.others.iter().flatten()).collect();
        for row in rows {
            for key in keys.iter().filter(|key| !key.is_empty()) {
                let given = key.iter().map(|column| {
                    let value = columns.iter().position(|name| name == column).and_then(|at| row.get(at));
                    match value.map(|value| self.given(value)) {
                        // The primary key of an existing row is unknown, whatever the new row would have.
                        None | Some(Given::Unique) if may_find_existing && **key == table.key => {
                            Given::Unknown
                        }
                        None => Given::Unique,
                        Some(given) => given,
                    }
                });
                match key_lock(&table.name, key, given) {
                    Ok(lock) => locks.extend(lock),
                    Err(reason) => effects.push(Effect::Unknown(reason)),
                }
            }
        }
        if !locks.is_empty() {
            effects.push(locking(locks, Granted::IfRows(rows.len())));
        }
        effects
    }

    fn given(&self, value: &Expr) -> Given {
        let is_unique = match value {
            Expr::Function(function) => GENERATORS.contains(&last_name(&function.name).as_str()),
            Expr::Identifier(name) => name_of(name) == "default" && name.quote_style.is_none(),
            value => is_null(value, self.arguments),
        };
        match value_of(value, self.arguments) {
            _ if is_unique => Given::Unique,
            Some(value) => Given::Value(value),
            None => Given::Unknown,
        }
    }
}

fn locking(locks: Vec<Lock>, granted: Granted) -> Effect {
    let (strength, waits, ordered, session) = (Strength::Update, true, true, false);
    Effect::Locks(Locking { locks, strength, waits, ordered, granted, session })
}

/// The lock on an entry of a unique key; `None` if no other row can have the same values.
fn key_lock(
    table: &str,
    key: &[String],
    given: impl Iterator<Item = Given>,
) -> Result<Option<Lock>, UnknownReason> {
    let (mut values, mut is_unique, mut is_known) = (Vec::new(), false, true);
    for given in given {
        match given {
            Given::Value(value) => values.push(value),
            Given::Unique => is_unique = true,
            Given::Unknown => is_known = false,
        }
    }
    if is_unique {
        return Ok(None);
    }
    if !is_known {
        return Err(UnknownReason::Rows);
    }
    Ok(Some(Lock::Row { table: table.to_owned(), columns: key.to_vec(), values }))
}

/// The value that an update assigns to a column. The inner `None` is an assignment of unknown value.
fn assigned<'u>(update: &'u ast::Update, column: &str) -> Option<Option<&'u Expr>> {
    update.assignments.iter().find_map(|assignment| match &assignment.target {
        ast::AssignmentTarget::ColumnName(name) => {
            (last_name(name) == column).then_some(Some(&assignment.value))
        }
        ast::AssignmentTarget::Tuple(names) => {
            names.iter().any(|name| last_name(name) == column).then_some(None)
        }
    })
}

/// The columns that an insert names, and the values of each row.
fn columns_and_rows(insert: &ast::Insert) -> Option<(Vec<String>, Vec<Vec<&Expr>>)> {
    if !insert.assignments.is_empty() {
        let column = |assignment: &ast::Assignment| match &assignment.target {
            ast::AssignmentTarget::ColumnName(name) => Some(last_name(name)),
            ast::AssignmentTarget::Tuple(_) => None,
        };
        let columns = insert.assignments.iter().map(column).collect::<Option<_>>()?;
        return Some((
            columns,
            vec![insert.assignments.iter().map(|assignment| &assignment.value).collect()],
        ));
    }
    let ast::SetExpr::Values(values) = &*insert.source.as_ref()?.body else { return None };
    if insert.columns.is_empty() {
        return None;
    }
    let rows = values.rows.iter().map(|row| row.content.iter().collect());
    Some((insert.columns.iter().map(last_name).collect(), rows.collect()))
}
