//! Determines from the text of a statement which tables it touches.

use std::collections::BTreeSet;

use sqlparser::ast::{self, ObjectName, Statement, TableFactor};
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;
use crate::testing::lock_order::dialect;

use super::compared::TableList;

/// The tables that a text of one or more statements touches; `None` if that is unknown.
///
/// Every name in the text that is the name of a table counts as that table. Too many tables do no harm: what
/// no client writes is equal in all schedules.
pub(super) fn touched_tables(syntax: Syntax, sql: &str, list: &TableList) -> Option<BTreeSet<usize>> {
    let mut tokens = Tokenizer::new(dialect(syntax), sql).tokenize().ok()?;
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    let statements = tokens.split(|token| *token == Token::SemiColon).filter(|tokens| !tokens.is_empty());
    let mut touched = BTreeSet::new();
    for tokens in statements {
        let named = named_tables(tokens, list);
        if !targets_are_known(syntax, tokens, list, &named) {
            return None;
        }
        touched.extend(named);
    }
    Some(touched)
}

fn named_tables(tokens: &[Token], list: &TableList) -> BTreeSet<usize> {
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => Some(word.value.as_str()),
        _ => None,
    };
    let (mut tables, mut at) = (BTreeSet::new(), 0);
    while let Some(token) = tokens.get(at) {
        let next = word(at + 2).filter(|_| tokens.get(at + 1) == Some(&Token::Period));
        let qualified =
            word(at).zip(next).and_then(|(schema, table)| list.find(&format!("{schema}.{table}")));
        at += if qualified.is_some() { 3 } else { 1 };
        let plain = match token {
            Token::Word(word) => list.find(&word.value),
            _ => None,
        };
        tables.extend(qualified.or(plain));
    }
    tables
}

/// Whether each table that the statement writes is among the known ones.
fn targets_are_known(syntax: Syntax, tokens: &[Token], list: &TableList, named: &BTreeSet<usize>) -> bool {
    // A query writes nothing, unless it calls a function that does.
    if matches!(&tokens[0], Token::Word(word) if word.keyword == Keyword::SELECT) {
        return true;
    }
    let Ok(statement) = Parser::new(dialect(syntax)).with_tokens(tokens.to_vec()).parse_statement() else {
        return is_harmless(&tokens[0]);
    };
    match statement {
        Statement::Insert(insert) => match &insert.table {
            ast::TableObject::TableName(name) => list.find(&name_of(name)).is_some(),
            _ => false,
        },
        Statement::Update(update) => is_known(&update.table.relation, list),
        Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
            from.iter().all(|table| is_known(&table.relation, list))
        }
        Statement::Merge(_) | Statement::Truncate(_) | Statement::Copy { .. } => !named.is_empty(),
        Statement::Call(_) | Statement::Execute { .. } => false,
        _ => true,
    }
}

fn is_known(table: &TableFactor, list: &TableList) -> bool {
    matches!(table, TableFactor::Table { name, .. } if list.find(&name_of(name)).is_some())
}

fn name_of(name: &ObjectName) -> String {
    let parts = name.0.iter().filter_map(|part| part.as_ident()).map(|ident| ident.value.as_str());
    parts.collect::<Vec<_>>().join(".")
}

/// Whether statements that begin with this word leave all tables as they are.
fn is_harmless(first: &Token) -> bool {
    use Keyword::{DESCRIBE, PRAGMA, RELEASE, ROLLBACK, SAVEPOINT, SET, SHOW};
    let harmless = [DESCRIBE, PRAGMA, RELEASE, ROLLBACK, SAVEPOINT, SET, SHOW];
    matches!(first, Token::Word(word) if harmless.contains(&word.keyword))
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::super::compared::TableList;
    use super::*;

    fn touched(sql: &str) -> Option<String> {
        let line =
            |visible: &str, schema: &str, table: &str| [visible, schema, table, "id", "N"].join("\u{1f}");
        let lines = [
            line("1", "public", "a"),
            line("1", "public", "b"),
            line("0", "other", "a"),
            line("0", "x", "c"),
        ];
        let list = TableList::parse(&lines);
        let touched = touched_tables(Syntax::Postgres, sql, &list)?;
        Some(touched.into_iter().map(|table| list.name(table)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn finds_every_table_that_a_statement_names() {
        for (sql, tables) in [
            ("SELECT 1", ""),
            ("SELECT * FROM a JOIN \"b\" ON true FOR NO KEY UPDATE", "a b"),
            ("UPDATE A SET x = (SELECT max(y) FROM b)", "a b"),
            ("UPDATE other.a SET x = 1", "other.a"),
            ("INSERT INTO x.c (id) VALUES ($1) ON CONFLICT DO NOTHING", "x.c"),
            ("WITH gone AS (DELETE FROM a RETURNING id) INSERT INTO b SELECT id FROM gone", "a b"),
            ("SET LOCAL lock_timeout = 5; DELETE FROM a", "a"),
        ] {
            assert_eq!(touched(sql).as_deref(), Some(tables), "{sql}");
        }
    }

    #[test]
    fn a_target_that_is_no_table_is_unknown() {
        let unknown = [
            "UPDATE a_view SET x = 1",
            "INSERT INTO c VALUES (1)",
            "CALL p()",
            "UPSERT a INTO b",
            "SELECT 'x",
        ];
        for sql in unknown {
            assert_eq!(touched(sql), None, "{sql}");
        }
    }
}
