//! Recognizes texts that may be more than one statement.

use crate::backend::Backend;
use crate::sql_text::{
    SqlStatement, SqlStatements, Syntax, TransactionEffect, begins_with_a_query, has_inner_semicolon,
    normalized,
};

/// The maximum length of a quotation, in characters.
const MAX_QUOTED: usize = 200;

/// Part of the table names in the texts of the crate's own features. Such a text, for example the claim of an
/// idempotency key, counts as one step, because users can neither split it nor see into it; the guide
/// documents this.
const OWN_TABLES: &str = "atomically_";

/// Returns a quotation of the text, unless the text is certainly a single statement. Such a text runs as one
/// step, so the steps that other clients could take in the middle of it are not explored.
pub(super) fn quote_several<DB: Backend>(sql: &str) -> Option<String> {
    if sql.contains(OWN_TABLES) || (!has_inner_semicolon(sql) && begins_with_a_query(sql)) {
        return None;
    }
    let parsed = SqlStatements::of(DB::SYNTAX, sql);
    let is_one = parsed.complete && parsed.count <= 1 && !parsed.statements.iter().any(runs_others::<DB>);
    (!is_one).then(|| {
        // Values are left out because they may differ from schedule to schedule.
        let shape = normalized(DB::SYNTAX, sql);
        match shape.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => format!("`{}…`", &shape[..end]),
            None => format!("`{shape}`"),
        }
    })
}

/// Whether the statement calls a procedure or is a block of statements.
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
    fn distinguishes_one_statement_from_several() {
        for one in ["SELECT 1", "SELECT ';' ;", "WITH a AS (SELECT 1) SELECT * FROM a", "SAVEPOINT a"] {
            assert_eq!(quote_several::<Postgres>(one), None);
            assert_eq!(quote_several::<MySql>(one), None);
            assert_eq!(quote_several::<Sqlite>(one), None);
        }
        for several in ["SELECT 1; SELECT 2", "SELECT 1;;\n UPDATE t SET a = 1;", "CALL p()"] {
            assert!(quote_several::<Postgres>(several).is_some(), "{several}");
            assert!(quote_several::<MySql>(several).is_some(), "{several}");
        }
        assert!(quote_several::<Sqlite>("SELECT 1; SELECT 2").is_some());
        assert!(quote_several::<Postgres>("DO $$ BEGIN DELETE FROM t; END $$").is_some());
        assert!(quote_several::<MySql>("BEGIN NOT ATOMIC SELECT 1; END").is_some());
    }

    #[test]
    fn an_unparsable_text_counts_as_several_statements() {
        assert!(quote_several::<Postgres>("SELECT 'open; SELECT 2").is_some());
    }
}
