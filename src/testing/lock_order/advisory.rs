//! Advisory locks, which statements acquire and release by calling functions.

use sqlparser::ast::{self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem, TableFactor};
use sqlparser::tokenizer::Token;

use crate::row_lock::Strength;

use super::effect::{Effect, Granted, Lock, Locking};
use super::names::last_name;
use super::report::UnknownReason;
use super::values::value_of;

/// The effects of the calls in a statement. `statement` is `None` if it could not be parsed.
pub(super) fn effects(
    tokens: &[Token],
    statement: Option<&ast::Statement>,
    arguments: &[String],
) -> Vec<Effect> {
    let names = tokens.iter().zip(tokens.iter().skip(1)).filter(|(word, parenthesis)| {
        matches!(word, Token::Word(word) if is_lock_function(&word.value)) && **parenthesis == Token::LParen
    });
    let named = names.count();
    let mut calls = Vec::new();
    if let Some(ast::Statement::Query(query)) = statement {
        unconditional_calls(query, &mut calls);
    }
    let mut effects: Vec<Effect> = calls.iter().map(|call| effect(call, arguments)).collect();
    // A call anywhere else happens once for each row, or not at all.
    if calls.len() < named {
        effects.push(Effect::Unknown(UnknownReason::Rows));
    }
    effects
}

fn is_lock_function(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (name.starts_with("pg_") && name.contains("advisory"))
        || ["get_lock", "release_lock", "release_all_locks"].contains(&name.as_str())
}

/// The calls in a query that does not read from a table: each happens exactly once.
fn unconditional_calls<'q>(query: &'q ast::Query, calls: &mut Vec<&'q ast::Function>) {
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
            TableFactor::Derived { subquery, .. } if from.joins.is_empty() => {
                unconditional_calls(subquery, calls)
            }
            _ => return,
        },
    }
    for item in &select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Some(call) = lock_call(expr)
        {
            calls.push(call);
        }
    }
}

/// The call of a lock function in a column of a query, possibly inside casts.
fn lock_call(expr: &Expr) -> Option<&ast::Function> {
    match expr {
        Expr::Function(function) => is_lock_function(&last_name(&function.name)).then_some(function),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => lock_call(expr),
        _ => None,
    }
}

fn effect(call: &ast::Function, arguments: &[String]) -> Effect {
    let name = last_name(&call.name);
    let Some(values) = argument_values(call, arguments) else { return Effect::Unknown(UnknownReason::Rows) };
    if name == "release_all_locks" || name.ends_with("unlock_all") {
        return Effect::Unlocks(None);
    }
    let strength = if name.ends_with("_shared") { Strength::Share } else { Strength::Update };
    let is_named = ["get_lock", "release_lock"].contains(&name.as_str());
    let lock = match values.split_first() {
        // MySQL ignores the case of these names.
        Some((name, _)) if is_named => Lock::Advisory(name.to_lowercase()),
        _ => Lock::Advisory(values.join(",")),
    };
    if name == "release_lock" || name.contains("unlock") {
        return Effect::Unlocks(Some((lock, strength)));
    }
    let (waits, granted) = match name.as_str() {
        "get_lock" => (values.get(1).is_none_or(|limit| limit != "0"), Granted::IfTrue),
        name if name.contains("try") => (false, Granted::IfTrue),
        _ => (true, Granted::IfAnswered),
    };
    let session = is_named || !name.contains("xact");
    Effect::Locks(Locking { locks: vec![lock], strength, waits, ordered: true, granted, session })
}

/// The values of the arguments, if all of them are known.
fn argument_values(call: &ast::Function, arguments: &[String]) -> Option<Vec<String>> {
    let list = match &call.args {
        FunctionArguments::None => return Some(Vec::new()),
        FunctionArguments::Subquery(_) => return None,
        FunctionArguments::List(list) => list,
    };
    let value = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => argument_value(expr, arguments),
        _ => None,
    };
    list.args.iter().map(value).collect()
}

/// A value, or the call of a pure function on values.
fn argument_value(expr: &Expr, arguments: &[String]) -> Option<String> {
    match expr {
        Expr::Function(function) => {
            let name = last_name(&function.name);
            let is_pure = ["hashtext", "hashtextextended"].contains(&name.as_str());
            let values = argument_values(function, arguments).filter(|_| is_pure)?;
            Some(format!("{name}({})", values.join(",")))
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) if matches!(**expr, Expr::Function(_)) => {
            argument_value(expr, arguments)
        }
        expr => value_of(expr, arguments),
    }
}
