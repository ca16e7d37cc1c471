//! Locks that are taken and given back by calling functions, of which this crate's own are among.

use sqlparser::ast::{self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem, TableFactor};
use sqlparser::tokenizer::Token;

use crate::row_lock::Strength;

use super::report::Unclear;
use super::sql::{Effect, Locking};
use super::trace::{Granted, Lock};
use super::values::value_of;

/// What the calls in a statement do. `statement` is `None` where it could not be read.
pub(super) fn effects(
    tokens: &[Token],
    statement: Option<&ast::Statement>,
    arguments: &[String],
) -> Vec<Effect> {
    let named = tokens.iter().zip(tokens.iter().skip(1)).filter(|(word, bracket)| {
        matches!(word, Token::Word(word) if is_about_locks(&word.value)) && **bracket == Token::LParen
    });
    let named = named.count();
    let mut calls = Vec::new();
    if let Some(ast::Statement::Query(query)) = statement {
        certain_calls(query, &mut calls);
    }
    let mut effects: Vec<Effect> = calls.iter().map(|call| effect(call, arguments)).collect();
    // What is called somewhere else is called as often as there are rows, or not at all.
    if calls.len() < named {
        effects.push(Effect::Unclear(Unclear::Rows));
    }
    effects
}

fn is_about_locks(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (name.starts_with("pg_") && name.contains("advisory"))
        || ["get_lock", "release_lock", "release_all_locks"].contains(&name.as_str())
}

/// The calls in a query that reads from no table: each happens once.
fn certain_calls<'q>(query: &'q ast::Query, calls: &mut Vec<&'q ast::Function>) {
    let ast::SetExpr::Select(select) = &*query.body else { return };
    let is_plain = query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && select.selection.is_none()
        && select.having.is_none()
        && select.from.len() < 2
        && matches!(&select.group_by, ast::GroupByExpr::Expressions(by, _) if by.is_empty());
    if !is_plain {
        return;
    }
    match select.from.first() {
        None => {}
        Some(from) => match &from.relation {
            TableFactor::Derived { subquery, .. } if from.joins.is_empty() => certain_calls(subquery, calls),
            _ => return,
        },
    }
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Some(call) = call(expr)
        {
            calls.push(call);
        }
    }
}

/// The call of such a function that a column of a query is, whatever its answer is turned into.
fn call(expr: &Expr) -> Option<&ast::Function> {
    match expr {
        Expr::Function(function) => {
            is_about_locks(&super::rows::last_name(&function.name)).then_some(function)
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => call(expr),
        _ => None,
    }
}

fn effect(call: &ast::Function, arguments: &[String]) -> Effect {
    let name = super::rows::last_name(&call.name);
    let Some(called_with) = called_with(call, arguments) else { return Effect::Unclear(Unclear::Rows) };
    if name == "release_all_locks" || name.ends_with("unlock_all") {
        return Effect::Unlocks(None);
    }
    let strength = if name.ends_with("_shared") { Strength::Share } else { Strength::Update };
    let is_named = ["get_lock", "release_lock"].contains(&name.as_str());
    let lock = match called_with.split_first() {
        // MySQL does not look at the case of these names.
        Some((name, _)) if is_named => Lock::Advisory(name.to_lowercase()),
        _ => Lock::Advisory(called_with.join(",")),
    };
    if name == "release_lock" || name.contains("unlock") {
        return Effect::Unlocks(Some((lock, strength)));
    }
    let (waits, granted) = match name.as_str() {
        "get_lock" => (called_with.get(1).is_none_or(|limit| limit != "0"), Granted::IfTrue),
        name if name.contains("try") => (false, Granted::IfTrue),
        _ => (true, Granted::IfAnswered),
    };
    let outlives = is_named || !name.contains("xact");
    Effect::Locks(Locking { locks: vec![lock], strength, waits, ordered: true, granted, outlives })
}

/// The arguments, where all of them are values.
fn called_with(call: &ast::Function, arguments: &[String]) -> Option<Vec<String>> {
    let list = match &call.args {
        FunctionArguments::None => return Some(Vec::new()),
        FunctionArguments::Subquery(_) => return None,
        FunctionArguments::List(list) => list,
    };
    let value = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => key(expr, arguments),
        _ => None,
    };
    list.args.iter().map(value).collect()
}

/// A value, or what a function makes of one that makes the same of it each time.
fn key(expr: &Expr, arguments: &[String]) -> Option<String> {
    match expr {
        Expr::Function(function) => {
            let name = super::rows::last_name(&function.name);
            let is_pure = ["hashtext", "hashtextextended"].contains(&name.as_str());
            let called_with = called_with(function, arguments).filter(|_| is_pure)?;
            Some(format!("{name}({})", called_with.join(",")))
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) if matches!(**expr, Expr::Function(_)) => {
            key(expr, arguments)
        }
        expr => value_of(expr, arguments),
    }
}
