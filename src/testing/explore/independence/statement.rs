//! Statements whose effects are known completely from their text.

use std::collections::{BTreeMap, BTreeSet};

use sqlparser::ast::{self, Statement};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;
use crate::testing::lock_order::{Clause, dialect, last_name, take_clauses, value_of};

use super::super::anomaly::{AccessKind, RowAccess, accesses, changes_with_values, parse, subqueries};

/// Functions that depend on nothing but their arguments, the rows that the statement reads, and the time.
/// The order of steps does not decide at which time they are sent.
const PURE_FUNCTIONS: [&str; 17] = [
    "COUNT",
    "SUM",
    "MIN",
    "MAX",
    "AVG",
    "COALESCE",
    "ABS",
    "NULLIF",
    "CAST",
    "EXTRACT",
    "GREATEST",
    "LEAST",
    "NOW",
    "STATEMENT_TIMESTAMP",
    "SYSDATE",
    "TIMESTAMPDIFF",
    "UTC_TIMESTAMP",
];

/// Words that a parenthesis may follow and that call no function.
const NOT_FUNCTIONS: [Keyword; 15] = [
    Keyword::AND,
    Keyword::BY,
    Keyword::CONFLICT,
    Keyword::ELSE,
    Keyword::FROM,
    Keyword::IN,
    Keyword::JOIN,
    Keyword::NOT,
    Keyword::ON,
    Keyword::OR,
    Keyword::SELECT,
    Keyword::THEN,
    Keyword::VALUES,
    Keyword::WHEN,
    Keyword::WHERE,
];

/// A statement that affects the rows only that its text shows, and reads no others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SimpleStatement {
    /// Whether it reads without locks.
    pub(super) is_plain_read: bool,
    /// Whether it reads, with or without locks.
    pub(super) is_read: bool,
    /// Whether it reads and locks what it reads in share mode.
    pub(super) locks_in_share_mode: bool,
    /// Whether it names a system table, or a column in which uncommitted changes and locks are visible.
    reads_system: bool,
    /// Whether a table may be one of another database or schema.
    is_qualified: bool,
    accesses: Vec<RowAccess>,
    /// The columns that it assigns.
    assigned: Vec<String>,
}

impl SimpleStatement {
    /// Returns `None` if the text calls functions, has subqueries, or is something other than a SELECT,
    /// INSERT, UPDATE or DELETE.
    pub(super) fn of(syntax: Syntax, sql: &str, arguments: &[String]) -> Option<Self> {
        let mut tokens = Tokenizer::new(dialect(syntax), sql).tokenize().ok()?;
        tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
        let (mut tokens, clauses) = take_clauses(&tokens);
        let mut statement = parse(syntax, sql)?;
        let changes_with_values = changes_with_values(&statement).cloned();
        if let Some(change) = changes_with_values.clone() {
            let begin = tokens.iter().position(|token| keyword(token) == Keyword::UPDATE)?;
            (statement, tokens) = (change, tokens.split_off(begin));
        }
        // A read without locks may select from subqueries, whose tables are among its accesses.
        let subqueries = if clauses.is_empty() { derived_tables(&statement) } else { 0 };
        if !is_simple(&tokens, 1 + subqueries + usize::from(is_upsert(&statement))) {
            return None;
        }
        let mut accesses = accesses(syntax, sql, arguments);
        if accesses.is_empty() {
            return None;
        }
        if changes_with_values.is_none() && reads_other_tables(&statement) {
            return None;
        }
        if let (Statement::Insert(insert), [access]) = (&statement, &mut *accesses) {
            match may_change_existing_rows(insert) {
                true => access.kind = AccessKind::Change,
                false => access.key = inserted_row(insert, arguments),
            }
        }
        let is_read = matches!(statement, Statement::Query(_));
        Some(Self {
            is_plain_read: is_read && clauses.is_empty(),
            is_read,
            locks_in_share_mode: is_read && !clauses.is_empty() && clauses.iter().all(Clause::is_shared),
            reads_system: tokens.iter().any(is_of_system),
            is_qualified: names_other_database(&tokens),
            accesses,
            assigned: assigned(&statement),
        })
    }

    /// The same for statements with other values: which rows it concerns is not known.
    pub(super) fn without_rows(&self) -> Self {
        let mut statement = self.clone();
        statement.assigned.clear();
        statement.accesses.iter_mut().for_each(|access| access.key.clear());
        statement
    }

    /// Whether it reads without locks, and only what is committed: nothing that a statement has changed or
    /// locked before its transaction commits.
    pub(super) fn reads_committed_rows(&self) -> bool {
        self.is_plain_read && !self.is_qualified && !self.reads_system
    }

    /// Whether it is an INSERT that leaves existing rows alone.
    pub(super) fn inserts(&self) -> bool {
        self.accesses.iter().all(|access| access.kind == AccessKind::Insert)
    }

    /// Whether both concern different tables of the current database, whose triggers were looked up.
    pub(super) fn has_other_tables(&self, other: &Self) -> bool {
        let are_here = !self.is_qualified && !other.is_qualified;
        are_here && self.accesses.iter().all(|one| other.accesses.iter().all(|two| one.table != two.table))
    }

    /// Whether it concerns none of these tables, but tables of the current database.
    pub(super) fn has_none_of(&self, tables: &BTreeSet<String>) -> bool {
        !self.is_qualified && !self.concerns_one_of(tables)
    }

    pub(super) fn concerns_one_of(&self, tables: &BTreeSet<String>) -> bool {
        self.accesses.iter().any(|access| tables.contains(&access.table))
    }

    /// Whether both concern different rows, whatever the tables contain.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        let is_assigned = |column: &String| self.assigned.contains(column) || other.assigned.contains(column);
        self.accesses.iter().all(|one| {
            other.accesses.iter().all(|two| {
                one.table != two.table
                    || one.key.iter().any(|(column, value)| {
                        !is_assigned(column)
                            && two.key.get(column).is_some_and(|other| are_different(value, other))
                    })
            })
        })
    }
}

/// Only integers are compared: other values can be spelled differently and be equal.
fn are_different(one: &str, other: &str) -> bool {
    matches!((one.parse::<i64>(), other.parse::<i64>()), (Ok(one), Ok(other)) if one != other)
}

pub(super) fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// Whether there are this many verbs, and no calls of functions that are not known to be pure.
fn is_simple(tokens: &[Token], expected_verbs: usize) -> bool {
    use Keyword::{DELETE, INSERT, INTO, SELECT, UPDATE, WITH};
    let verbs = tokens.iter().filter(|token| [DELETE, INSERT, SELECT, UPDATE].contains(&keyword(token)));
    let first = tokens.first().map_or(Keyword::NoKeyword, keyword);
    // With these words a subquery locks rows, which is not among the clauses of the statement.
    let locks = |token: &Token| [Keyword::FOR, Keyword::LOCK].contains(&keyword(token));
    let is_alone = !tokens.iter().any(locks)
        && verbs.count() == expected_verbs
        && first != WITH
        && !tokens.contains(&Token::SemiColon);
    let stores = first == SELECT && tokens.iter().any(|token| keyword(token) == INTO);
    // The columns of an INSERT look like arguments.
    let rows = tokens.iter().position(|token| keyword(token) == Keyword::VALUES && first == INSERT);
    is_alone && !stores && !calls_unknown_function(&tokens[rows.map_or(0, |values| values + 1)..], &[])
}

/// Whether there are calls of functions that are not known to be pure. A parenthesis may follow these words
/// as well.
pub(super) fn calls_unknown_function(tokens: &[Token], not_functions: &[Keyword]) -> bool {
    tokens.windows(2).any(|pair| match pair {
        [Token::Word(word), Token::LParen] => {
            let is_operator = NOT_FUNCTIONS.iter().chain(not_functions).any(|other| *other == word.keyword);
            !is_operator && !PURE_FUNCTIONS.contains(&word.value.to_uppercase().as_str())
        }
        _ => false,
    })
}

/// Whether the word names a system table or a system column, as those of PostgreSQL.
pub(super) fn is_of_system(token: &Token) -> bool {
    let Token::Word(word) = token else { return false };
    let name = word.value.to_lowercase();
    let is_column = ["xmin", "xmax", "cmin", "cmax", "ctid", "tableoid"].contains(&&*name);
    is_column || name.starts_with("pg_") || name.starts_with("information_schema")
}

/// Whether a table may be one of another database.
pub(super) fn names_other_database(tokens: &[Token]) -> bool {
    use Keyword::{FROM, INTO, JOIN, STRAIGHT_JOIN, UPDATE};
    let begins_table = |token: &Token| match token {
        Token::Word(word) => [FROM, INTO, JOIN, STRAIGHT_JOIN, UPDATE].contains(&word.keyword),
        Token::Comma => true,
        _ => false,
    };
    tokens.windows(3).any(|tokens| begins_table(&tokens[0]) && tokens[2] == Token::Period)
}

/// Whether it changes or replaces a row that exists, or does nothing then. The order of two such statements
/// matters.
fn may_change_existing_rows(insert: &ast::Insert) -> bool {
    insert.on.is_some() || insert.ignore || insert.replace_into
}

/// Whether it is an INSERT that updates rows that exist.
fn is_upsert(statement: &Statement) -> bool {
    match statement {
        Statement::Insert(insert) => match &insert.on {
            Some(ast::OnInsert::DuplicateKeyUpdate(_)) => true,
            Some(ast::OnInsert::OnConflict(conflict)) => {
                matches!(conflict.action, ast::OnConflictAction::DoUpdate(_))
            }
            _ => false,
        },
        _ => false,
    }
}

/// The number of subqueries in the FROM clause of a query, and in theirs.
fn derived_tables(statement: &Statement) -> usize {
    match statement {
        Statement::Query(query) => subqueries(query).len(),
        _ => 0,
    }
}

/// Whether it changes rows of one table depending on rows of others, which are not among its accesses.
fn reads_other_tables(statement: &Statement) -> bool {
    match statement {
        Statement::Update(update) => update.from.is_some(),
        Statement::Delete(delete) => delete.using.is_some() || !delete.tables.is_empty(),
        _ => false,
    }
}

/// The columns of the row that it inserts, if it is a single one with known values.
fn inserted_row(insert: &ast::Insert, arguments: &[String]) -> BTreeMap<String, String> {
    let body = insert.source.as_ref().map(|source| &*source.body);
    let Some(ast::SetExpr::Values(values)) = body else { return BTreeMap::new() };
    let [row] = &*values.rows else { return BTreeMap::new() };
    let columns = insert.columns.iter().zip(row.iter());
    columns.filter_map(|(column, value)| Some((last_name(column), value_of(value, arguments)?))).collect()
}

fn assigned(statement: &Statement) -> Vec<String> {
    let Statement::Update(update) = statement else { return Vec::new() };
    let columns = update.assignments.iter().flat_map(|assignment| match &assignment.target {
        ast::AssignmentTarget::ColumnName(name) => vec![last_name(name)],
        ast::AssignmentTarget::Tuple(names) => names.iter().map(last_name).collect(),
    });
    columns.collect()
}

#[cfg(all(test, feature = "postgres"))]
mod tests;
