//! Which rows a statement reads and writes, as far as its text shows.

use std::collections::BTreeMap;

use sqlparser::ast::{self, BinaryOperator, Expr, SetExpr, Statement, TableFactor, TableWithJoins};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;
use crate::testing::lock_order::{dialect, last_name, name_of, take_clauses, value_of};

/// What a statement does to rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) struct RowAccess {
    pub(in super::super) kind: AccessKind,
    pub(in super::super) table: String,
    /// The columns that are compared with a value, each with that value.
    pub(in super::super) key: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) enum AccessKind {
    Read,
    /// An UPDATE or DELETE.
    Change,
    Insert,
}

impl RowAccess {
    /// Whether both may concern the same row: no column has two different values.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.table == other.table
            && self.key.iter().all(|(column, value)| other.key.get(column).is_none_or(|other| other == value))
    }

    pub(super) const fn is_write(&self) -> bool {
        matches!(self.kind, AccessKind::Change | AccessKind::Insert)
    }
}

/// Parses a statement without its locking clauses. Its placeholders are numbered.
pub(in super::super) fn parse(syntax: Syntax, sql: &str) -> Option<Statement> {
    let mut tokens = Tokenizer::new(dialect(syntax), sql).tokenize().ok()?;
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    let placeholders = tokens.iter_mut().filter_map(|token| match token {
        Token::Placeholder(name) if name == "?" => Some(name),
        _ => None,
    });
    for (i, name) in placeholders.enumerate() {
        *name = format!("?{}", i + 1);
    }
    let (rest, _) = take_clauses(&tokens);
    Parser::new(dialect(syntax)).with_tokens(rest).parse_statement().ok()
}

/// The accesses of a statement; empty if they are unknown.
pub(in super::super) fn accesses(syntax: Syntax, sql: &str, arguments: &[String]) -> Vec<RowAccess> {
    parse(syntax, sql).and_then(|statement| of_statement(&statement, arguments)).unwrap_or_default()
}

fn of_statement(statement: &Statement, arguments: &[String]) -> Option<Vec<RowAccess>> {
    match statement {
        Statement::Query(query) if changes_with_values(statement).is_some() => {
            // The rows are those that a join finds.
            let mut accesses = changes_with_values(statement).and_then(|change| of_statement(change, &[]))?;
            accesses.iter_mut().for_each(|access| access.key.clear());
            query.with.is_some().then_some(accesses)
        }
        Statement::Query(query) => {
            let mut accesses = Vec::new();
            for query in [&**query].into_iter().chain(subqueries(query)) {
                let select = select_of(query)?;
                let condition = select.selection.as_ref();
                accesses.extend(of_tables(AccessKind::Read, &select.from, condition, arguments)?);
            }
            Some(accesses)
        }
        Statement::Update(update) => of_tables(
            AccessKind::Change,
            std::slice::from_ref(&update.table),
            update.selection.as_ref(),
            arguments,
        ),
        Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
            of_tables(AccessKind::Change, from, delete.selection.as_ref(), arguments)
        }
        Statement::Insert(insert) => match &insert.table {
            ast::TableObject::TableName(name) => Some(vec![RowAccess {
                kind: AccessKind::Insert,
                table: last_name(name),
                key: BTreeMap::new(),
            }]),
            _ => None,
        },
        _ => None,
    }
}

/// The UPDATE behind `WITH … AS (VALUES …)` that joins its table with those values and nothing else.
pub(in super::super) fn changes_with_values(statement: &Statement) -> Option<&Statement> {
    let Statement::Query(query) = statement else { return None };
    let (Some(with), SetExpr::Update(change)) = (&query.with, &*query.body) else { return None };
    let Statement::Update(update) = change else { return None };
    let lists_values = |cte: &ast::Cte| match &*cte.query.body {
        SetExpr::Values(values) => {
            let is_value = |expr: &Expr| matches!(expr, Expr::Value(_));
            values.rows.iter().flat_map(|row| row.iter()).all(is_value)
        }
        _ => false,
    };
    let is_list = |table: &TableFactor| match table {
        TableFactor::Table { name, .. } => {
            with.cte_tables.iter().any(|cte| name_of(&cte.alias.name) == last_name(name))
        }
        _ => false,
    };
    let from = match &update.from {
        Some(ast::UpdateTableFromKind::AfterSet(from) | ast::UpdateTableFromKind::BeforeSet(from)) => from,
        None => return None,
    };
    let is_known = with.cte_tables.iter().all(lists_values) && relations(from).all(is_list);
    is_known.then_some(change)
}

/// The subqueries in the FROM clause of a query, and in theirs.
pub(in super::super) fn subqueries(query: &ast::Query) -> Vec<&ast::Query> {
    let tables = select_of(query).into_iter().flat_map(|select| relations(&select.from));
    let derived = tables.filter_map(|table| match table {
        TableFactor::Derived { subquery, .. } => Some(&**subquery),
        _ => None,
    });
    derived.flat_map(|subquery| [subquery].into_iter().chain(subqueries(subquery))).collect()
}

fn select_of(query: &ast::Query) -> Option<&ast::Select> {
    match &*query.body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => select_of(query),
        _ => None,
    }
}

fn relations(from: &[TableWithJoins]) -> impl Iterator<Item = &TableFactor> {
    from.iter()
        .flat_map(|from| [&from.relation].into_iter().chain(from.joins.iter().map(|join| &join.relation)))
}

/// The accesses to these tables; `None` if there is anything but tables and subqueries.
fn of_tables(
    kind: AccessKind,
    from: &[TableWithJoins],
    condition: Option<&Expr>,
    arguments: &[String],
) -> Option<Vec<RowAccess>> {
    let mut tables = Vec::new();
    for table in relations(from) {
        match table {
            TableFactor::Table { name, .. } => tables.push(last_name(name)),
            // Its tables are accesses of their own.
            TableFactor::Derived { .. } => {}
            _ => return None,
        }
    }
    let mut key = BTreeMap::new();
    // In a join, a column may belong to either table.
    if let (1, Some(condition)) = (relations(from).count(), condition) {
        add_comparisons(condition, arguments, &mut key);
    }
    Some(tables.into_iter().map(|table| RowAccess { kind, table, key: key.clone() }).collect())
}

/// Adds the columns that must equal a value.
fn add_comparisons(condition: &Expr, arguments: &[String], key: &mut BTreeMap<String, String>) {
    let column = |expr: &Expr| match expr {
        Expr::Identifier(name) => Some(name_of(name)),
        Expr::CompoundIdentifier(names) => names.last().map(name_of),
        _ => None,
    };
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            add_comparisons(left, arguments, key);
            add_comparisons(right, arguments, key);
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let pair = column(left).zip(value_of(right, arguments));
            let pair = pair.or_else(|| column(right).zip(value_of(left, arguments)));
            key.extend(pair);
        }
        Expr::Nested(inner) => add_comparisons(inner, arguments, key),
        _ => {}
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    fn shown(sql: &str, arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let shown = accesses(Syntax::Postgres, sql, &arguments).into_iter().map(|access| {
            let key: Vec<_> = access.key.iter().map(|(column, value)| format!(" {column}={value}")).collect();
            format!("{:?} {}{}", access.kind, access.table, key.concat())
        });
        shown.collect()
    }

    #[test]
    fn recognizes_the_rows_of_a_statement() {
        for (sql, arguments, accesses) in [
            ("SELECT a FROM t WHERE id = $1 FOR NO KEY UPDATE", &["7"][..], &["Read t id=7"][..]),
            (
                "UPDATE t SET a = $1 WHERE id = $2 AND version = $3",
                &["1", "2", "3"],
                &["Change t id=2 version=3"],
            ),
            ("DELETE FROM t WHERE (1 = id)", &[], &["Change t id=1"]),
            ("INSERT INTO t VALUES (1)", &[], &["Insert t"]),
            ("SELECT count(*) FROM t WHERE a > 1", &[], &["Read t"]),
            ("SELECT * FROM t JOIN u ON t.id = u.id WHERE a = 1", &[], &["Read t", "Read u"]),
            ("SET LOCAL lock_timeout = 5", &[], &[]),
        ] {
            assert_eq!(shown(sql, arguments), accesses, "{sql}");
        }
    }

    #[test]
    fn rows_with_different_values_do_not_overlap() {
        let one = |sql| accesses(Syntax::Postgres, sql, &[]).remove(0);
        let row = one("SELECT a FROM t WHERE id = 1");
        assert!(row.overlaps(&one("UPDATE t SET a = 1 WHERE id = 1 AND version = 2")));
        assert!(row.overlaps(&one("UPDATE t SET a = 1 WHERE a = 3")), "it may be the same row");
        assert!(!row.overlaps(&one("UPDATE t SET a = 1 WHERE id = 2")));
        assert!(!row.overlaps(&one("UPDATE u SET a = 1 WHERE id = 1")));
    }
}
