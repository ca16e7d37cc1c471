//! What changes of rows lock: the rows, and the values that no other row may have.

use sqlparser::ast::{self, Expr};

use crate::row_lock::Strength;

use super::report::Unclear;
use super::rows::{Named, Scope, Table, last_name, name_of};
use super::sql::{Effect, Locking, Reader};
use super::trace::{Granted, Lock};
use super::values::{is_null, value_of};

/// Functions whose values no other row has.
const NEW: [&str; 9] = [
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

/// The value of a column in a row that is written.
enum Given {
    Value(String),
    /// No other row can have it: NULL, a default, or one that is made up on the way.
    Own,
    Unreadable,
}

impl Reader<'_> {
    pub(super) fn update(&self, update: &ast::Update) -> Vec<Effect> {
        let mut from = vec![update.table.clone()];
        if let Some(ast::UpdateTableFromKind::BeforeSet(more) | ast::UpdateTableFromKind::AfterSet(more)) =
            &update.from
        {
            from.extend(more.iter().cloned());
        }
        let scope = self.scope(&from, update.selection.as_ref());
        // MySQL changes joined tables together; elsewhere the others are only read.
        let changed = if update.table.joins.is_empty() { 1 } else { usize::MAX };
        let mut effects = Vec::new();
        for table in scope.tables().take(changed) {
            let others = table.named.others.iter().flatten();
            let keys = [&table.named.key].into_iter().chain(others);
            let changed: Vec<_> =
                keys.filter(|key| key.iter().any(|column| assigned(update, column).is_some())).collect();
            let strength = if changed.is_empty() { Strength::NoKeyUpdate } else { Strength::Update };
            effects.extend(scope.locks(table, &update.order_by, strength, true));
            if table.named.others.is_none() && table.named.is_known {
                effects.push(Effect::Unclear(Unclear::Keys));
            }
            for key in changed {
                effects.push(self.new_value(&scope, table, key, update));
            }
        }
        effects
    }

    /// A row that gets a new key keeps others from having it.
    fn new_value(
        &self,
        scope: &Scope<'_>,
        table: &Table<'_>,
        key: &[String],
        update: &ast::Update,
    ) -> Effect {
        let given = key.iter().map(|column| match assigned(update, column) {
            Some(Some(value)) => self.given(value),
            Some(None) => Given::Unreadable,
            None => match scope.values(table, column).as_deref() {
                Some([value]) => Given::Value(value.clone()),
                _ => Given::Unreadable,
            },
        });
        entry(&table.named.name, key, given)
    }

    pub(super) fn delete(&self, delete: &ast::Delete) -> Vec<Effect> {
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
        let mut all = from.clone();
        all.extend(delete.using.iter().flatten().cloned());
        let scope = self.scope(&all, delete.selection.as_ref());
        match scope.tables().next() {
            Some(table) if delete.tables.is_empty() => {
                scope.locks(table, &delete.order_by, Strength::Update, true)
            }
            _ => vec![Effect::Unclear(Unclear::Rows)],
        }
    }

    /// A new row is waited for by whoever inserts a value that it has in a unique key.
    pub(super) fn insert(&self, insert: &ast::Insert) -> Vec<Effect> {
        let ast::TableObject::TableName(table) = &insert.table else {
            return vec![Effect::Unclear(Unclear::Rows)];
        };
        let table = self.keys.of(table);
        let may_meet_others =
            insert.on.is_some() || insert.replace_into || insert.or.is_some() || insert.ignore;
        let mut effects = Vec::new();
        match &table.others {
            Some(others) if others.is_empty() && table.key.is_empty() => return effects,
            Some(_) => {}
            None => effects.push(Effect::Unclear(Unclear::Keys)),
        }
        match columns_and_rows(insert) {
            Some((columns, rows)) => {
                effects.extend(self.new_rows(&table, &columns, &rows, may_meet_others));
            }
            None => effects.push(Effect::Unclear(Unclear::Rows)),
        }
        // A row that is found by another column has a key of its own.
        if let Some(ast::OnInsert::OnConflict(conflict)) = &insert.on
            && matches!(conflict.action, ast::OnConflictAction::DoUpdate(_))
            && !matches!(&conflict.conflict_target, Some(ast::ConflictTarget::Columns(columns))
                if columns.iter().map(name_of).collect::<Vec<_>>() == table.key)
        {
            effects.push(Effect::Unclear(Unclear::Rows));
        }
        effects.dedup();
        effects
    }

    /// The entries of new rows in the unique keys, row by row.
    fn new_rows(
        &self,
        table: &Named,
        columns: &[String],
        rows: &[Vec<&Expr>],
        may_meet_others: bool,
    ) -> Vec<Effect> {
        let (mut effects, mut locks) = (Vec::new(), Vec::new());
        let keys: Vec<_> = [&table.key].into_iter().chain(table.others.iter().flatten()).collect();
        for row in rows {
            for key in keys.iter().filter(|key| !key.is_empty()) {
                let given = key.iter().map(|column| {
                    let value = columns.iter().position(|name| name == column).and_then(|at| row.get(at));
                    match value.map(|value| self.given(value)) {
                        // A row that is met has a key, whatever the new one would have had.
                        None | Some(Given::Own) if may_meet_others && **key == table.key => Given::Unreadable,
                        None => Given::Own,
                        Some(given) => given,
                    }
                });
                match entry(&table.name, key, given) {
                    Effect::Locks(locking) => locks.extend(locking.locks),
                    Effect::Reads(_) => {}
                    unclear => effects.push(unclear),
                }
            }
        }
        if !locks.is_empty() {
            let granted = Granted::IfRows(rows.len());
            effects.push(Effect::Locks(locking(locks, granted)));
        }
        effects
    }

    fn given(&self, value: &Expr) -> Given {
        let is_new = match value {
            Expr::Function(function) => NEW.contains(&last_name(&function.name).as_str()),
            Expr::Identifier(name) => name_of(name) == "default" && name.quote_style.is_none(),
            value => is_null(value, self.arguments),
        };
        match value_of(value, self.arguments) {
            _ if is_new => Given::Own,
            Some(value) => Given::Value(value),
            None => Given::Unreadable,
        }
    }
}

fn locking(locks: Vec<Lock>, granted: Granted) -> Locking {
    Locking { locks, strength: Strength::Update, waits: true, ordered: true, granted, outlives: false }
}

/// The lock on the values of one unique key; on nothing where no other row can have them.
fn entry(table: &str, key: &[String], given: impl Iterator<Item = Given>) -> Effect {
    let (mut values, mut is_own, mut is_readable) = (Vec::new(), false, true);
    for given in given {
        match given {
            Given::Value(value) => values.push(value),
            Given::Own => is_own = true,
            Given::Unreadable => is_readable = false,
        }
    }
    if is_own {
        return Effect::Reads(Vec::new());
    }
    if !is_readable {
        return Effect::Unclear(Unclear::Rows);
    }
    let lock = Lock::Row { table: table.to_owned(), columns: key.to_vec(), values };
    Effect::Locks(locking(vec![lock], Granted::IfRows(1)))
}

/// Whether an update assigns to a column, and what, where that is a single value.
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

/// The columns that an insert names, and the values that it writes to them.
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
