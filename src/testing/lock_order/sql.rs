//! What a statement locks, read from its text.

use sqlparser::ast;
use sqlparser::dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::backend::Backend;
use crate::row_lock::Strength;

use super::clause::{Clause, take_clauses};
use super::report::Unclear;
use super::rows::{Keys, Scope};
use super::trace::{Granted, Lock};

/// What a statement does about locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Locks(Locking),
    /// Gives back a lock of the session, or all of them.
    Unlocks(Option<(Lock, Strength)>),
    /// Without row locks nothing tells a row that is read to be changed from one that is only read.
    Reads(Vec<Lock>),
    Savepoint(String),
    RollbackTo(String),
    Unclear(Unclear),
}

/// Locks that a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locking {
    pub(super) locks: Vec<Lock>,
    pub(super) strength: Strength,
    pub(super) waits: bool,
    /// Whether they are taken one by one, as listed.
    pub(super) ordered: bool,
    pub(super) granted: Granted,
    /// Whether the session keeps them when the transaction ends.
    pub(super) outlives: bool,
}

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    MySql,
    Sqlite,
}

impl Dialect {
    pub(super) fn of<DB: Backend>() -> Self {
        match DB::NAME {
            "PostgreSQL" => Self::Postgres,
            "MySQL" => Self::MySql,
            _ => Self::Sqlite,
        }
    }

    fn grammar(self) -> &'static dyn dialect::Dialect {
        match self {
            Self::Postgres => &dialect::PostgreSqlDialect {},
            Self::MySql => &dialect::MySqlDialect {},
            Self::Sqlite => &dialect::SQLiteDialect {},
        }
    }
}

/// Reads a text of one or more statements.
pub(super) fn effects(dialect: Dialect, keys: &Keys, sql: &str, arguments: &[String]) -> Vec<Effect> {
    let Ok(mut tokens) = Tokenizer::new(dialect.grammar(), sql).tokenize() else {
        return vec![Effect::Unclear(Unclear::Text)];
    };
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    let placeholders = tokens.iter_mut().filter_map(|token| match token {
        Token::Placeholder(name) if name == "?" => Some(name),
        _ => None,
    });
    for (i, name) in placeholders.enumerate() {
        *name = format!("?{}", i + 1);
    }
    let reader = Reader { dialect, keys, arguments };
    let statements: Vec<&[Token]> =
        tokens.split(|token| *token == Token::SemiColon).filter(|tokens| !tokens.is_empty()).collect();
    let mut effects: Vec<Effect> = statements.iter().flat_map(|tokens| reader.statement(tokens)).collect();
    if statements.len() > 1 {
        // The answers of several statements are one answer.
        for effect in &mut effects {
            if let Effect::Locks(Locking { granted: granted @ Granted::IfRows(_), .. }) = effect {
                *granted = Granted::Untold;
            }
        }
    }
    effects
}

pub(super) struct Reader<'a> {
    dialect: Dialect,
    pub(super) keys: &'a Keys,
    pub(super) arguments: &'a [String],
}

impl Reader<'_> {
    fn statement(&self, tokens: &[Token]) -> Vec<Effect> {
        let Some(first) = tokens.first() else { return Vec::new() };
        let (rest, clauses) = take_clauses(tokens);
        let statement = Parser::new(self.dialect.grammar()).with_tokens(rest).parse_statement().ok();
        let mut effects = super::advisory::effects(tokens, statement.as_ref(), self.arguments);
        if hides_locks(tokens) {
            effects.push(Effect::Unclear(Unclear::Rows));
        }
        match &statement {
            Some(statement) => effects.extend(self.effects(statement, &clauses)),
            None if clauses.is_empty() && is_harmless(first) => {}
            None => effects.push(Effect::Unclear(Unclear::Text)),
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
            // Whole tables, or what nothing is known of.
            _ => vec![Effect::Unclear(Unclear::Rows)],
        }
    }

    fn query(&self, query: &ast::Query, clauses: &[Clause]) -> Vec<Effect> {
        let select = match &*query.body {
            ast::SetExpr::Select(select) => select,
            ast::SetExpr::Insert(inner) | ast::SetExpr::Update(inner) | ast::SetExpr::Delete(inner) => {
                return self.effects(inner, clauses);
            }
            _ if clauses.is_empty() => return Vec::new(),
            _ => return vec![Effect::Unclear(Unclear::Rows)],
        };
        let scope = self.scope(&select.from, select.selection.as_ref());
        let order = query.order_by.as_ref().map_or(&[][..], |order| match &order.kind {
            ast::OrderByKind::Expressions(order) => order,
            ast::OrderByKind::All(_) => &[],
        });
        if self.dialect == Dialect::Sqlite {
            return scope.tables().filter_map(|table| scope.rows(table)).map(Effect::Reads).collect();
        }
        let locked = |clause: &Clause| {
            let (strength, waits) = (clause.strength, clause.waits);
            let tables: Vec<_> = scope.tables().filter(|table| clause.names(table)).collect();
            let mut effects: Vec<_> =
                tables.iter().flat_map(|table| scope.locks(table, order, strength, waits)).collect();
            // A lock without names is one on everything, what is no table included.
            if tables.is_empty() || (clause.of.is_empty() && scope.has_more) {
                effects.push(Effect::Unclear(Unclear::Rows));
            }
            effects
        };
        clauses.iter().flat_map(locked).collect()
    }

    pub(super) fn scope<'s>(
        &'s self,
        from: &'s [ast::TableWithJoins],
        selection: Option<&'s ast::Expr>,
    ) -> Scope<'s> {
        Scope::new(self.keys, self.arguments, from, selection)
    }
}

/// Whether parts in brackets lock or change something: a subquery, or a query in front of the statement.
fn hides_locks(tokens: &[Token]) -> bool {
    let after_bracket = tokens.iter().zip(tokens.iter().skip(1)).any(|(bracket, word)| {
        *bracket == Token::LParen
            && [Keyword::UPDATE, Keyword::DELETE, Keyword::INSERT, Keyword::MERGE]
                .iter()
                .any(|keyword| is(word, *keyword))
    });
    after_bracket || super::clause::in_brackets(tokens)
}

/// Whether a statement that begins like this takes no lock that matters, whatever the rest of it says.
fn is_harmless(first: &Token) -> bool {
    use Keyword::{DESCRIBE, PRAGMA, RELEASE, SAVEPOINT, SET, SHOW};
    [DESCRIBE, PRAGMA, RELEASE, SAVEPOINT, SET, SHOW].iter().any(|keyword| is(first, *keyword))
}

pub(super) fn is(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}
