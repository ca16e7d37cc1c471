//! Statements whose effects are known completely from their text.

use std::collections::BTreeMap;

use sqlparser::ast::{self, Statement};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;
use crate::testing::lock_order::{dialect, last_name, take_clauses, value_of};

use super::super::anomaly::{AccessKind, RowAccess, accesses, parse};

/// Functions that depend on nothing but their arguments, the rows that the statement reads, and the time.
/// The order of steps does not decide at which time they are sent.
const PURE_FUNCTIONS: [&str; 13] = [
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
    "STATEMENT_TIMESTAMP",
    "TIMESTAMPDIFF",
    "UTC_TIMESTAMP",
];

/// A statement that affects the rows only that its text shows, and reads no others.
#[derive(Debug)]
pub(super) struct SimpleStatement {
    /// Whether it reads without locks.
    pub(super) is_plain_read: bool,
    /// Whether it reads, with or without locks.
    pub(super) is_read: bool,
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
        let (tokens, clauses) = take_clauses(&tokens);
        if !is_simple(&tokens) {
            return None;
        }
        let mut accesses = accesses(syntax, sql, arguments);
        if accesses.is_empty() {
            return None;
        }
        let statement = parse(syntax, sql)?;
        if reads_other_tables(&statement) {
            return None;
        }
        if let (Statement::Insert(insert), [access]) = (&statement, &mut *accesses) {
            match may_change_existing_rows(insert) {
                true => access.kind = AccessKind::Change,
                false => access.key = inserted_row(insert, arguments),
            }
        }
        let is_read = matches!(statement, Statement::Query(_));
        let is_plain_read = is_read && clauses.is_empty();
        let is_qualified = names_other_database(&tokens);
        Some(Self { is_plain_read, is_read, is_qualified, accesses, assigned: assigned(&statement) })
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

fn is_simple(tokens: &[Token]) -> bool {
    use Keyword::{DELETE, INSERT, INTO, SELECT, UPDATE, WITH};
    let keyword = |token: &Token| match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let verbs = tokens.iter().filter(|token| [DELETE, INSERT, SELECT, UPDATE].contains(&keyword(token)));
    let first = tokens.first().map_or(Keyword::NoKeyword, keyword);
    let is_alone = verbs.count() == 1 && first != WITH && !tokens.contains(&Token::SemiColon);
    let stores = first == SELECT && tokens.iter().any(|token| keyword(token) == INTO);
    // The columns of an INSERT look like arguments.
    let rows = tokens.iter().position(|token| keyword(token) == Keyword::VALUES && first == INSERT);
    let calls = tokens[rows.map_or(0, |values| values + 1)..].windows(2).any(|pair| match pair {
        [Token::Word(word), Token::LParen] => {
            let is_operator = [Keyword::IN, Keyword::AND, Keyword::OR, Keyword::NOT, Keyword::WHERE]
                .contains(&word.keyword);
            !is_operator && !PURE_FUNCTIONS.contains(&word.value.to_uppercase().as_str())
        }
        _ => false,
    });
    is_alone && !stores && !calls
}

/// Whether a table may be one of another database.
fn names_other_database(tokens: &[Token]) -> bool {
    use Keyword::{FROM, INTO, JOIN, UPDATE};
    let begins_table = |token: &Token| match token {
        Token::Word(word) => [FROM, INTO, JOIN, UPDATE].contains(&word.keyword),
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
mod tests {
    use super::*;

    fn simple(sql: &str) -> Option<SimpleStatement> {
        SimpleStatement::of(Syntax::Postgres, sql, &[])
    }

    #[test]
    fn statements_with_unknown_effects_are_not_simple() {
        for sql in [
            "SELECT nextval('s')",
            "SELECT a INTO b FROM t",
            "SELECT a FROM t WHERE id = (SELECT 1)",
            "WITH x AS (DELETE FROM t RETURNING id) SELECT id FROM x",
            "UPDATE t SET a = f(1) WHERE id = 1",
            "INSERT INTO t (id) VALUES (f(1))",
            "INSERT INTO t SELECT 1",
            "UPDATE t SET a = 1; UPDATE u SET a = 1",
            "UPDATE t SET a = u.a FROM u WHERE u.id = t.id",
            "DELETE FROM t USING u WHERE u.id = t.id",
            "SET LOCAL lock_timeout = 5",
            "TRUNCATE t",
        ] {
            assert!(simple(sql).is_none(), "{sql}");
        }
        for sql in
            ["SELECT count(*) FROM t", "INSERT INTO t (id, a) VALUES (1, 2)", "DELETE FROM t WHERE id IN (1)"]
        {
            assert!(simple(sql).is_some(), "{sql}");
        }
    }

    #[test]
    fn reads_with_locks_are_not_plain() {
        assert!(simple("SELECT a FROM t").expect("simple").is_plain_read);
        assert!(!simple("SELECT a FROM t FOR NO KEY UPDATE").expect("simple").is_plain_read);
    }

    #[test]
    fn an_insert_that_may_be_skipped_is_disjoint_from_no_other_insert() {
        let plain = simple("INSERT INTO t (id, a) VALUES (1, 2)").expect("simple");
        assert!(plain.inserts());
        let skipped = "INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT DO NOTHING";
        let skipped = simple(skipped).expect("simple");
        assert!(!skipped.inserts() && !skipped.is_disjoint(&plain) && !skipped.is_disjoint(&skipped));
        assert!(simple("INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET a = 3").is_none());
    }

    #[test]
    fn the_time_is_no_effect_of_other_statements() {
        let now = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint";
        let sql = format!("UPDATE t SET a = {now} WHERE id = 1 AND b > {now}");
        assert!(simple(&sql).is_some());
    }

    #[test]
    fn rows_are_disjoint_if_an_unchanged_column_has_different_integers() {
        let first = simple("UPDATE t SET a = 1 WHERE id = 1").expect("simple");
        for (sql, is_disjoint) in [
            ("SELECT a FROM t WHERE id = 2 FOR UPDATE", true),
            ("SELECT a FROM t WHERE id = 1", false),
            ("SELECT a FROM t WHERE id = '1.0'", false),
            ("SELECT a FROM t WHERE a = 2", false),
            ("SELECT a FROM t WHERE id = 2 OR a = 3", false),
            ("UPDATE t SET id = 1 WHERE id = 2", false),
            ("INSERT INTO t VALUES (2)", false),
            ("INSERT INTO t (id, a) VALUES (2, 3)", true),
            ("INSERT INTO t (id, a) VALUES (1, 3)", false),
            ("INSERT INTO t (id, a) VALUES (2, 3), (1, 3)", false),
            ("INSERT INTO t (a) VALUES (2)", false),
            ("INSERT INTO u VALUES (2)", true),
            ("SELECT a FROM u WHERE id = 1", true),
        ] {
            assert_eq!(first.is_disjoint(&simple(sql).expect("simple")), is_disjoint, "{sql}");
        }
    }
}
