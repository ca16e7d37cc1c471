//! What is known of the effects of a statement.

use std::collections::BTreeSet;

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_text::Syntax;
use crate::testing::lock_order::dialect;

use super::statement::{
    SimpleStatement, calls_unknown_function, is_of_system, keyword, names_other_database,
};

/// Words that a parenthesis may follow in a statement with subqueries, and that call no function.
const NOT_FUNCTIONS: [Keyword; 9] = [
    Keyword::ALL,
    Keyword::ANY,
    Keyword::ARRAY,
    Keyword::AS,
    Keyword::EXISTS,
    Keyword::INDEX,
    Keyword::LATERAL,
    Keyword::MATERIALIZED,
    Keyword::USING,
];

/// What a statement is known to affect.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) enum TextEffect {
    /// The rows that its text shows.
    Rows(SimpleStatement),
    /// No tables but those that its text names.
    Tables(NamedTables),
    #[default]
    Unknown,
}

/// The names in a statement, among them those of all tables that it reads or changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NamedTables {
    /// All names and keywords, in lowercase.
    words: BTreeSet<String>,
    inserts: bool,
    is_read: bool,
}

impl TextEffect {
    pub(super) fn of(syntax: Syntax, sql: &str, arguments: &[String]) -> Self {
        let rows = SimpleStatement::of(syntax, sql, arguments).map(Self::Rows);
        rows.or_else(|| NamedTables::of(syntax, sql).map(Self::Tables)).unwrap_or_default()
    }

    /// The statement, if its rows are known.
    pub(super) const fn rows(&self) -> Option<&SimpleStatement> {
        match self {
            Self::Rows(statement) => Some(statement),
            Self::Tables(_) | Self::Unknown => None,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        *self != Self::Unknown
    }

    /// Whether it is known to read without locks.
    pub(super) fn is_plain_read(&self) -> bool {
        self.rows().is_some_and(|read| read.is_plain_read)
    }

    /// Whether it is known to change nothing.
    pub(super) fn is_read(&self) -> bool {
        match self {
            Self::Rows(statement) => statement.is_read,
            Self::Tables(named) => named.is_read,
            Self::Unknown => false,
        }
    }

    /// The same for statements with other values: which rows it concerns is not known.
    pub(super) fn without_rows(&self) -> Self {
        match self {
            Self::Rows(statement) => Self::Rows(statement.without_rows()),
            Self::Tables(_) | Self::Unknown => self.clone(),
        }
    }

    /// Whether both concern different tables of the current database, whose triggers were looked up.
    pub(super) fn has_other_tables(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rows(one), Self::Rows(other)) => one.has_other_tables(other),
            (Self::Rows(rows), Self::Tables(named)) | (Self::Tables(named), Self::Rows(rows)) => {
                rows.has_none_of(&named.words)
            }
            (Self::Tables(_), Self::Tables(_)) | (Self::Unknown, _) | (_, Self::Unknown) => false,
        }
    }

    /// Whether it may draw a value from a sequence that one of these tables has.
    pub(super) fn may_draw_from(&self, with_sequences: &BTreeSet<String>) -> bool {
        match self {
            Self::Rows(statement) => statement.inserts() && statement.concerns_one_of(with_sequences),
            Self::Tables(named) => named.inserts && !with_sequences.is_empty(),
            Self::Unknown => true,
        }
    }

    /// Whether it may read or change one of these tables.
    pub(super) fn may_use(&self, tables: &BTreeSet<String>) -> bool {
        match self {
            Self::Rows(statement) => statement.concerns_one_of(tables),
            Self::Tables(named) => !named.words.is_disjoint(tables),
            Self::Unknown => true,
        }
    }
}

impl NamedTables {
    /// Returns `None` if the text is more than one statement, calls functions, or names anything that is not
    /// a table of the current database.
    fn of(syntax: Syntax, sql: &str) -> Option<Self> {
        use Keyword::{DELETE, IGNORE, INSERT, INTO, MERGE, SELECT, UPDATE, WITH};
        // MySQL and MariaDB execute such comments.
        if sql.contains("/*!") || sql.contains("/*M!") {
            return None;
        }
        let mut tokens = Tokenizer::new(dialect(syntax), sql).tokenize().ok()?;
        tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
        let is_statement = [DELETE, INSERT, SELECT, UPDATE, WITH].contains(&keyword(tokens.first()?));
        let stores =
            |pair: &[Token]| keyword(&pair[1]) == INTO && ![INSERT, IGNORE].contains(&keyword(&pair[0]));
        let is_escaped = |token: &Token| match token {
            Token::Word(word) => word.quote_style.is_some() && word.value.contains('\\'),
            _ => false,
        };
        // The columns of the first table of a WITH clause look like arguments.
        let uncalled = if keyword(&tokens[0]) == WITH { tokens.get(2..)? } else { &tokens[..] };
        let is_known = is_statement
            && !tokens.contains(&Token::SemiColon)
            && !tokens.windows(2).any(stores)
            && !tokens
                .iter()
                .any(|token| keyword(token) == MERGE || is_of_system(token) || is_escaped(token))
            && !calls_unknown_function(uncalled, &NOT_FUNCTIONS)
            && !names_other_database(&tokens);
        let words = tokens.iter().filter_map(|token| match token {
            Token::Word(word) => Some(word.value.to_lowercase()),
            _ => None,
        });
        let inserts = tokens.iter().any(|token| keyword(token) == INSERT);
        let is_read = keyword(&tokens[0]) == SELECT;
        is_known.then(|| Self { words: words.collect(), inserts, is_read })
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::super::{Independence, TextsTell};
    use super::*;

    fn effect(sql: &str) -> TextEffect {
        TextEffect::of(Syntax::Postgres, sql, &[])
    }

    #[test]
    fn a_statement_with_subqueries_concerns_no_tables_but_those_that_it_names() {
        for sql in [
            "SELECT a FROM t WHERE b = 1 AND NOT EXISTS (SELECT 1 FROM u WHERE u.id = t.id) FOR UPDATE",
            "WITH x (id) AS (SELECT id FROM u), y AS MATERIALIZED (DELETE FROM t RETURNING id) \
             UPDATE t SET a = GREATEST(a, 1) WHERE id = ANY(ARRAY(SELECT id FROM x))",
            "INSERT INTO t SELECT a FROM u",
        ] {
            let statement = effect(sql);
            assert!(statement.rows().is_none() && statement.is_known(), "{sql}");
            assert!(statement.has_other_tables(&effect("UPDATE v SET a = 1")), "{sql}");
            for same in ["DELETE FROM t WHERE id = 1", "SELECT a FROM \"U\" FOR UPDATE"] {
                assert!(!statement.has_other_tables(&effect(same)), "{sql}: {same}");
            }
            assert!(!statement.has_other_tables(&effect("UPDATE other.v SET a = 1")), "{sql}");
            assert!(!statement.has_other_tables(&statement), "{sql}");
        }
    }

    #[test]
    fn statements_that_may_affect_what_they_do_not_name_are_unknown() {
        for sql in [
            "SELECT a FROM t WHERE a = (SELECT nextval('s'))",
            "SELECT a INTO v FROM t WHERE EXISTS (SELECT 1 FROM u)",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM other.u)",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM pg_locks)",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM U&\"\\0076\")",
            "UPDATE t SET a = (SELECT 1); UPDATE u SET a = 1",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 /*! FROM v */)",
            "SET a = (SELECT 1)",
            "TRUNCATE t",
        ] {
            assert!(!effect(sql).is_known(), "{sql}");
        }
    }

    #[test]
    fn the_order_of_draws_from_a_sequence_matters() {
        let sequences = ["t".to_owned(), "t_id_seq".to_owned()].into();
        let texts_tell = TextsTell { tables: true, rows: true, sequences, ..TextsTell::default() };
        let independence = Independence::new(Syntax::Postgres, texts_tell);
        let draws = "INSERT INTO t (a) VALUES (1)";
        for (one, other, shared) in [
            (draws, draws, true),
            (draws, "SELECT last_value FROM t_id_seq", true),
            (draws, "INSERT INTO u (a) SELECT 1", true),
            (draws, "INSERT INTO u (a) VALUES (1)", false),
            (draws, "SELECT a FROM u", false),
            ("SELECT a FROM t", "SELECT last_value FROM t_id_seq", false),
        ] {
            assert_eq!(independence.share_sequence(&effect(one), &effect(other)), shared, "{one}; {other}");
            assert_eq!(independence.share_sequence(&effect(other), &effect(one)), shared, "{other}; {one}");
        }
    }
}
