//! What a statement locks, read from its text.

use sqlparser::ast;
use sqlparser::dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::backend::Backend;
use crate::lock::Strength;

use super::clause::{Clause, take_clauses};
use super::report::Unclear;
use super::rows::{Keys, Scope, value_of};
use super::trace::Lock;

/// What a statement does about locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Locks {
        locks: Vec<Lock>,
        strength: Strength,
        waits: bool,
        /// Whether they are taken one by one, as listed.
        ordered: bool,
    },
    /// Without row locks nothing tells a row that is read to be changed from one that is only read.
    Reads(Vec<Lock>),
    Savepoint(String),
    RollbackTo(String),
    Unclear(Unclear),
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
    tokens.split(|token| *token == Token::SemiColon).flat_map(|tokens| reader.statement(tokens)).collect()
}

struct Reader<'a> {
    dialect: Dialect,
    keys: &'a Keys,
    arguments: &'a [String],
}

impl Reader<'_> {
    fn statement(&self, tokens: &[Token]) -> Vec<Effect> {
        let mut effects = advisory_locks(tokens, self.arguments);
        let Some(first) = tokens.first() else { return effects };
        let (rest, clauses) = take_clauses(tokens);
        if hides_locks(tokens) {
            effects.push(Effect::Unclear(Unclear::Rows));
        }
        match Parser::new(self.dialect.grammar()).with_tokens(rest).parse_statement() {
            Ok(statement) => effects.extend(self.effects(&statement, &clauses)),
            Err(_) if !clauses.is_empty() || may_lock(first) => effects.push(Effect::Unclear(Unclear::Text)),
            Err(_) => {}
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
            Sql::Merge(_) | Sql::Lock(_) | Sql::LockTables { .. } | Sql::Call(_) | Sql::Execute { .. } => {
                vec![Effect::Unclear(Unclear::Rows)]
            }
            _ => Vec::new(),
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
                tables.iter().map(|table| scope.locks(table, order, strength, waits)).collect();
            // A lock without names is one on everything, what is no table included.
            if tables.is_empty() || (clause.of.is_empty() && scope.has_more) {
                effects.push(Effect::Unclear(Unclear::Rows));
            }
            effects
        };
        clauses.iter().flat_map(locked).collect()
    }

    fn update(&self, update: &ast::Update) -> Vec<Effect> {
        let mut from = vec![update.table.clone()];
        if let Some(ast::UpdateTableFromKind::BeforeSet(more) | ast::UpdateTableFromKind::AfterSet(more)) =
            &update.from
        {
            from.extend(more.iter().cloned());
        }
        let scope = self.scope(&from, update.selection.as_ref());
        // MySQL changes joined tables together; elsewhere the others are only read.
        let changed = if update.table.joins.is_empty() { 1 } else { usize::MAX };
        let locks = scope.tables().take(changed).map(|table| {
            let changes_key = update.assignments.iter().any(|assignment| match &assignment.target {
                ast::AssignmentTarget::ColumnName(name) => scope.is_key_name(table, name),
                ast::AssignmentTarget::Tuple(names) => {
                    names.iter().any(|name| scope.is_key_name(table, name))
                }
            });
            let strength = if changes_key { Strength::Update } else { Strength::NoKeyUpdate };
            scope.locks(table, &update.order_by, strength, true)
        });
        locks.collect()
    }

    fn delete(&self, delete: &ast::Delete) -> Vec<Effect> {
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
        let mut all = from.clone();
        all.extend(delete.using.iter().flatten().cloned());
        let scope = self.scope(&all, delete.selection.as_ref());
        match scope.tables().next() {
            Some(table) if delete.tables.is_empty() => {
                vec![scope.locks(table, &delete.order_by, Strength::Update, true)]
            }
            _ => vec![Effect::Unclear(Unclear::Rows)],
        }
    }

    /// A new row is waited for by whoever inserts the same key.
    fn insert(&self, insert: &ast::Insert) -> Vec<Effect> {
        let unclear = || vec![Effect::Unclear(Unclear::Rows)];
        let ast::TableObject::TableName(table) = &insert.table else { return unclear() };
        let (table, key) = self.keys.of(table);
        let is_key = |name: &ast::ObjectName| super::rows::last_name(name) == key;
        let may_meet_others = insert.on.is_some() || insert.replace_into || insert.or.is_some();
        let values: Vec<&ast::Expr> = if insert.assignments.is_empty() {
            let Some(ast::SetExpr::Values(values)) = insert.source.as_ref().map(|source| &*source.body)
            else {
                return unclear();
            };
            match insert.columns.iter().position(is_key) {
                Some(place) => values.rows.iter().filter_map(|row| row.content.get(place)).collect(),
                None if insert.columns.is_empty() || may_meet_others => return unclear(),
                None => return Vec::new(),
            }
        } else {
            let is_key = |assignment: &&ast::Assignment| match &assignment.target {
                ast::AssignmentTarget::ColumnName(name) => is_key(name),
                ast::AssignmentTarget::Tuple(_) => false,
            };
            insert.assignments.iter().filter(is_key).map(|assignment| &assignment.value).collect()
        };
        // Nobody else has a key that is made up on the way.
        let is_new = |value: &&ast::Expr| {
            !may_meet_others && matches!(value, ast::Expr::Function(_) | ast::Expr::Identifier(_))
        };
        let values = values.into_iter().filter(|value| !is_new(value));
        let values: Option<Vec<String>> = values.map(|value| value_of(value, self.arguments)).collect();
        let mut effects = match values {
            Some(values) if values.is_empty() => Vec::new(),
            Some(values) => {
                let row = |value| Lock::Row { table: table.clone(), column: key.clone(), value };
                let locks = values.into_iter().map(row).collect();
                vec![Effect::Locks { locks, strength: Strength::Update, waits: true, ordered: true }]
            }
            None => unclear(),
        };
        // A row that is found by another column has a key of its own.
        if let Some(ast::OnInsert::OnConflict(conflict)) = &insert.on
            && matches!(conflict.action, ast::OnConflictAction::DoUpdate(_))
            && !matches!(&conflict.conflict_target, Some(ast::ConflictTarget::Columns(columns))
                if columns.iter().map(super::rows::name_of).eq([key.clone()]))
        {
            effects.push(Effect::Unclear(Unclear::Rows));
        }
        effects
    }

    fn scope<'s>(&'s self, from: &'s [ast::TableWithJoins], selection: Option<&'s ast::Expr>) -> Scope<'s> {
        Scope::new(self.keys, self.arguments, from, selection)
    }
}

/// Locks that are taken by calling functions, of which this crate's own are among.
fn advisory_locks(tokens: &[Token], arguments: &[String]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let (Token::Word(word), Some(Token::LParen)) = (token, tokens.get(at + 1)) else { continue };
        let name = word.value.to_ascii_lowercase();
        let is_get_lock = name == "get_lock";
        let is_advisory = name.starts_with("pg_") && name.contains("advisory") && !name.contains("unlock");
        if !is_get_lock && !is_advisory {
            continue;
        }
        let called_with: Option<Vec<String>> = tokens[at + 2..]
            .iter()
            .scan(1_usize, |depth, token| {
                *depth = match token {
                    Token::LParen => *depth + 1,
                    Token::RParen => *depth - 1,
                    _ => *depth,
                };
                (*depth > 0).then_some(token)
            })
            .map(|token| super::rows::token_value(token, arguments))
            .collect();
        let Some(mut called_with) = called_with else {
            effects.push(Effect::Unclear(Unclear::Rows));
            continue;
        };
        let mut waits = !name.contains("try");
        if is_get_lock {
            waits = called_with.last().is_none_or(|limit| limit != "0");
            called_with.truncate(called_with.iter().rposition(|token| token == ",").unwrap_or(usize::MAX));
        }
        let strength = if name.ends_with("_shared") { Strength::Share } else { Strength::Update };
        let locks = vec![Lock::Advisory(called_with.concat())];
        effects.push(Effect::Locks { locks, strength, waits, ordered: true });
    }
    effects
}

/// Whether parts in brackets lock or change something: a subquery, or a query in front of the statement.
fn hides_locks(tokens: &[Token]) -> bool {
    let after_bracket = tokens.iter().zip(tokens.iter().skip(1)).any(|(bracket, word)| {
        *bracket == Token::LParen
            && [Keyword::UPDATE, Keyword::DELETE, Keyword::INSERT].iter().any(|keyword| is(word, *keyword))
    });
    after_bracket || super::clause::in_brackets(tokens)
}

/// Whether a statement that begins like this may take locks, whatever the rest of it says.
fn may_lock(first: &Token) -> bool {
    use Keyword::{CALL, DELETE, DO, INSERT, LOCK, MERGE, REPLACE, UPDATE, WITH};
    [UPDATE, DELETE, INSERT, REPLACE, MERGE, WITH, LOCK, CALL, DO].iter().any(|keyword| is(first, *keyword))
}

pub(super) fn is(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}
