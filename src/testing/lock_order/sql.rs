//! Determines the locks of a statement from its text.

use sqlparser::ast;
use sqlparser::dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;

use super::advisory;
use super::clause::{Clause, has_nested_clause, take_clauses};
use super::effect::{Effect, Granted, Locking};
use super::names::is_keyword;
use super::report::UnknownReason;
use super::rows::{RowSelection, TableKeys};

#[cfg(test)]
mod tests;

/// The dialect of `sqlparser` for a database.
pub(in crate::testing) fn dialect(syntax: Syntax) -> &'static dyn dialect::Dialect {
    match syntax {
        Syntax::Postgres => &dialect::PostgreSqlDialect {},
        Syntax::MySql => &dialect::MySqlDialect {},
        Syntax::Sqlite => &dialect::SQLiteDialect {},
    }
}

/// The effects of a text of one or more statements.
pub(super) fn effects(syntax: Syntax, keys: &TableKeys, sql: &str, arguments: &[String]) -> Vec<Effect> {
    let Ok(mut tokens) = Tokenizer::new(dialect(syntax), sql).tokenize() else {
        return vec![Effect::Unknown(UnknownReason::Text)];
    };
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    let placeholders = tokens.iter_mut().filter_map(|token| match token {
        Token::Placeholder(name) if name == "?" => Some(name),
        _ => None,
    });
    for (i, name) in placeholders.enumerate() {
        *name = format!("?{}", i + 1);
    }
    let reader = Reader { syntax, keys, arguments };
    let statements: Vec<&[Token]> =
        tokens.split(|token| *token == Token::SemiColon).filter(|tokens| !tokens.is_empty()).collect();
    let mut effects: Vec<Effect> = statements.iter().flat_map(|tokens| reader.statement(tokens)).collect();
    if statements.len() > 1 {
        // The row count of the answer is that of all statements together.
        for effect in &mut effects {
            if let Effect::Locks(Locking { granted: granted @ Granted::IfRows(_), .. }) = effect {
                *granted = Granted::Unknown;
            }
        }
    }
    effects
}

/// Determines the effects of statements. Writes are in the module `writes`.
pub(super) struct Reader<'a> {
    syntax: Syntax,
    pub(super) keys: &'a TableKeys,
    pub(super) arguments: &'a [String],
}

impl Reader<'_> {
    fn statement(&self, tokens: &[Token]) -> Vec<Effect> {
        let Some(first) = tokens.first() else { return Vec::new() };
        let (rest, clauses) = take_clauses(tokens);
        let statement = Parser::new(dialect(self.syntax)).with_tokens(rest).parse_statement().ok();
        let mut effects = advisory::effects(tokens, statement.as_ref(), self.arguments);
        if has_nested_locks(tokens) {
            effects.push(Effect::Unknown(UnknownReason::Rows));
        }
        match &statement {
            Some(statement) => effects.extend(self.effects(statement, &clauses)),
            None if clauses.is_empty() && is_harmless(first) => {}
            None => effects.push(Effect::Unknown(UnknownReason::Text)),
        }
        effects
    }

    fn effects(&self, statement: &ast::Statement, clauses: &[Clause]) -> Vec<Effect> {
        use ast::Statement as Sql;
        match statement {
            Sql::Query(query) => self.query(query, clauses),
            Sql::Update(update) => self.update(update),
            Sql::Delete(delete) => self.delete(delete),
            Sql::Insert(insert) => self.insert(insert),
            Sql::Savepoint { name } => vec![Effect::Savepoint(name.value.clone())],
            Sql::Rollback { savepoint: Some(name), .. } => vec![Effect::RollbackTo(name.value.clone())],
            Sql::ReleaseSavepoint { .. }
            | Sql::CreateTable(_)
            | Sql::Set(_)
            | Sql::Pragma { .. }
            | Sql::ShowVariable { .. }
            | Sql::ShowVariables { .. }
            | Sql::ShowStatus { .. }
            | Sql::ExplainTable { .. }
            | Sql::Explain { analyze: false, .. }
            | Sql::Deallocate { .. }
            | Sql::LISTEN { .. }
            | Sql::UNLISTEN { .. } => Vec::new(),
            // A statement that locks whole tables, or an unknown one.
            _ => vec![Effect::Unknown(UnknownReason::Rows)],
        }
    }

    fn query(&self, query: &ast::Query, clauses: &[Clause]) -> Vec<Effect> {
        let select = match &*query.body {
            ast::SetExpr::Select(select) => select,
            ast::SetExpr::Insert(inner) | ast::SetExpr::Update(inner) | ast::SetExpr::Delete(inner) => {
                return self.effects(inner, clauses);
            }
            _ if clauses.is_empty() => return Vec::new(),
            _ => return vec![Effect::Unknown(UnknownReason::Rows)],
        };
        let rows = self.select_rows(&select.from, select.selection.as_ref());
        if self.syntax == Syntax::Sqlite {
            return rows.tables().filter_map(|table| rows.rows(table)).map(Effect::Reads).collect();
        }
        let order = query.order_by.as_ref().map_or(&[][..], |order| match &order.kind {
            ast::OrderByKind::Expressions(order) => order,
            ast::OrderByKind::All(_) => &[],
        });
        let locked_by = |clause: &Clause| {
            let (strength, waits) = (clause.strength, clause.waits);
            let tables: Vec<_> = rows.tables().filter(|table| clause.applies_to(table)).collect();
            let mut effects: Vec<_> =
                tables.iter().flat_map(|table| rows.locks(table, order, strength, waits)).collect();
            // A clause without table names also applies to subqueries in the FROM clause.
            if tables.is_empty() || (clause.of.is_empty() && rows.has_more) {
                effects.push(Effect::Unknown(UnknownReason::Rows));
            }
            effects
        };
        clauses.iter().flat_map(locked_by).collect()
    }

    pub(super) fn select_rows<'s>(
        &'s self,
        from: &'s [ast::TableWithJoins],
        condition: Option<&'s ast::Expr>,
    ) -> RowSelection<'s> {
        RowSelection::new(self.keys, self.arguments, from, condition)
    }
}

/// Whether a part in parentheses locks or changes rows: a subquery, or a WITH query.
fn has_nested_locks(tokens: &[Token]) -> bool {
    let has_nested_write = tokens.iter().zip(tokens.iter().skip(1)).any(|(parenthesis, word)| {
        *parenthesis == Token::LParen
            && [Keyword::UPDATE, Keyword::DELETE, Keyword::INSERT, Keyword::MERGE]
                .iter()
                .any(|keyword| is_keyword(word, *keyword))
    });
    has_nested_write || has_nested_clause(tokens)
}

/// Whether no statement that begins with this word acquires a relevant lock.
fn is_harmless(first: &Token) -> bool {
    use Keyword::{DESCRIBE, PRAGMA, RELEASE, SAVEPOINT, SET, SHOW};
    [DESCRIBE, PRAGMA, RELEASE, SAVEPOINT, SET, SHOW].iter().any(|keyword| is_keyword(first, *keyword))
}
