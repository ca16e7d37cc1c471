//! Whether a text is one statement.

use crate::backend::Backend;
use crate::sql_text::{
    Statement, Statements, Syntax, TransactionEffect, begins_with_a_query, has_inner_semicolon, normalized,
};

/// How much of a text a report quotes.
const QUOTED: usize = 200;

/// What the texts of the crate's own features mention: a claim of a key, say, which is one step. Users can
/// neither split it nor see into it, and the guide says so.
const OWN: &str = "atomically_";

/// What the text is, where it is not certain that it is one statement: such a text is one step, and what
/// other clients could do in the middle of it is not explored.
pub(super) fn several<DB: Backend>(sql: &str) -> Option<String> {
    if sql.contains(OWN) || (!has_inner_semicolon(sql) && begins_with_a_query(sql)) {
        return None;
    }
    let read = SqlStatements::of(DB::SYNTAX, sql);
    let is_one = read.complete && read.count <= 1 && !read.statements.iter().any(runs_others::<DB>);
    (!is_one).then(|| {
        // Without values, which may differ each time.
        let shape = normalized(DB::SYNTAX, sql);
        match shape.char_indices().nth(QUOTED) {
            Some((end, _)) => format!("`{}…`", &shape[..end]),
            None => format!("`{shape}`"),
        }
    })
}

/// A procedure, or a block of several statements.
fn runs_others<DB: Backend>(statement: &SqlStatement<'_>) -> bool {
    statement.begins(&["CALL"])
        || statement.begins(&["BEGIN", "NOT"])
        || (DB::SYNTAX == Syntax::Postgres && statement.begins(&["DO"]))
        || DB::transaction_effect(statement) == TransactionEffect::MayEnd
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests {
    use sqlx::{MySql, Postgres, Sqlite};

    use super::*;

    #[test]
    fn a_text_of_several_statements_is_told_from_one() {
        for one in ["SELECT 1", "SELECT ';' ;", "WITH a AS (SELECT 1) SELECT * FROM a", "SAVEPOINT a"] {
            assert_eq!(several::<Postgres>(one), None);
            assert_eq!(several::<MySql>(one), None);
            assert_eq!(several::<Sqlite>(one), None);
        }
        for many in ["SELECT 1; SELECT 2", "SELECT 1;;\n UPDATE t SET a = 1;", "CALL p()"] {
            assert!(several::<Postgres>(many).is_some(), "{many}");
            assert!(several::<MySql>(many).is_some(), "{many}");
        }
        assert!(several::<Sqlite>("SELECT 1; SELECT 2").is_some());
        assert!(several::<Postgres>("DO $$ BEGIN DELETE FROM t; END $$").is_some());
        assert!(several::<MySql>("BEGIN NOT ATOMIC SELECT 1; END").is_some());
    }

    #[test]
    fn a_text_that_cannot_be_read_is_not_taken_for_one() {
        assert!(several::<Postgres>("SELECT 'open; SELECT 2").is_some());
    }
}
