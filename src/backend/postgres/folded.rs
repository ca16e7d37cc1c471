//! Statements that share a text with BEGIN or COMMIT.

use std::fmt::Write as _;

use sqlx::Postgres;
use sqlx::postgres::PgArguments;

use super::bound_values;
use crate::backend::engine::{Engine, EngineProduct};
use crate::backend::folded::{FoldedSql, FoldedText, Folding, Literal, Unwritable};
use crate::digest::digest;

/// The beginning of the error that a check raises, before the number of rows.
const CHANGED: &str = "atomically: rows changed: ";

/// The statements that expect one row, by their first word. Only they have RETURNING in every version.
const CHECKED: [&str; 3] = ["UPDATE", "DELETE", "INSERT"];

/// `PREPARE` and `EXECUTE` instead of values in the statement: the server itself finds the placeholders, and
/// a statement that the session has already prepared is neither parsed nor planned.
impl FoldedSql for Postgres {
    /// PostgreSQL alone: other products do not prepare statements in SQL, or undo part of a text only.
    fn folds(engine: Engine) -> bool {
        engine.product() == EngineProduct::PostgreSql
    }

    fn literals(arguments: &PgArguments) -> Result<Vec<Literal>, Unwritable> {
        bound_values::literals(arguments)
    }

    fn fold(statement: &Folding<'_>) -> Option<FoldedText> {
        let Folding { sql, literals, expects_one, may_keep, prepared } = *statement;
        let body = if expects_one { checked(sql)? } else { sql.to_owned() };
        let types: Vec<&str> = literals.iter().map(|literal| literal.type_name).collect();
        let types = types.join(", ");
        let values: Vec<&str> = literals.iter().map(|literal| literal.sql.as_str()).collect();
        let list = |items: &str| if items.is_empty() { String::new() } else { format!(" ({items})") };
        let (types, values) = (list(&types), list(&values.join(", ")));
        let mut name = name_of(&body, &types);
        let has = if may_keep { prepared.has(&name) } else { None };
        if has == Some(true) {
            let sql = format!("EXECUTE \"{name}\"{values}");
            return Some(FoldedText { sql, results: 1, check: expects_one.then_some(0), ..<_>::default() });
        }
        let is_kept = has == Some(false);
        if !is_kept {
            let _ = write!(name, " {:08x}", rand::random::<u32>());
        }
        let mut sql = format!("PREPARE \"{name}\"{types} AS {body}; EXECUTE \"{name}\"{values}");
        if !is_kept {
            let _ = write!(sql, "; DEALLOCATE \"{name}\"");
        }
        Some(FoldedText {
            sql,
            results: if is_kept { 2 } else { 3 },
            before: 1,
            check: expects_one.then_some(1),
            prepares: Some((name, is_kept)),
        })
    }

    /// 22P02: a text that is not a number, which the message quotes.
    fn unexpected_rows(error: &sqlx::Error, _integers: &[i64]) -> Option<u64> {
        let error = error.as_database_error().filter(|error| error.code().is_some_and(|c| c == "22P02"))?;
        let (_, number) = error.message().split_once(CHANGED)?;
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        number[..digits].parse().ok()
    }

    const PREPARED_NAMES_QUERY: Option<&'static str> = Some(concat!(
        "SELECT name FROM pg_catalog.pg_prepared_statements WHERE name LIKE 'atomically ",
        env!("CARGO_PKG_VERSION"),
        " kept %'"
    ));

    fn is_prepared_name(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    fn has_other_names(error: &sqlx::Error) -> bool {
        error.as_database_error().is_some_and(|error| {
            error.code().is_some_and(|code| matches!(&*code, "26000" | "42P05"))
                && error.message().contains(PREFIX)
        })
    }
}

/// The beginning of the names.
const PREFIX: &str = concat!("atomically ", env!("CARGO_PKG_VERSION"), " kept ");

/// Returns the name of a statement. Behind a pooler, another client may have prepared it, so a name must
/// always stand for the same statement.
fn name_of(body: &str, types: &str) -> String {
    let [one, other] = [0_u8, 1].map(|half| digest(&(half, body, types)));
    format!("{PREFIX}{one:016x}{other:016x}")
}

/// Returns the statement as one that fails unless it changes one row: the number becomes part of a text that
/// is converted to a number. `None` if the statement may have a RETURNING of its own.
fn checked(sql: &str) -> Option<String> {
    let word = sql.split_ascii_whitespace().next()?;
    let is_plain = CHECKED.iter().any(|checked| checked.eq_ignore_ascii_case(word))
        && !sql.to_ascii_uppercase().contains("RETURNING");
    is_plain.then(|| {
        format!(
            "WITH atomically_changed AS ({sql} RETURNING 1) SELECT CASE WHEN count(*) = 1 THEN 1 \
             ELSE CAST('{CHANGED}' || count(*) AS integer) END FROM atomically_changed"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::folded::PreparedNames;

    fn fold(prepared: &PreparedNames, expects_one: bool) -> FoldedText {
        let literals = [Literal { sql: String::from("'7'::bigint"), type_name: "bigint" }];
        let sql = "UPDATE t SET a = 1 WHERE id = $1";
        let folding = Folding { sql, literals: &literals, expects_one, may_keep: true, prepared };
        Postgres::fold(&folding).expect("a text")
    }

    #[test]
    fn a_statement_is_prepared_once_in_each_session_that_reports_its_statements() {
        let mut prepared = PreparedNames::default();
        prepared.set([]);
        let first = fold(&prepared, false);
        let (name, is_kept) = first.prepares.clone().expect("a name");
        assert!(is_kept && name.len() < 64, "{name}");
        assert_eq!((first.results, first.before), (2, 1));
        prepared.insert(name.clone());
        let second = fold(&prepared, false);
        assert_eq!(second.sql, format!("EXECUTE \"{name}\" ('7'::bigint)"));
        assert_eq!((second.results, second.before, second.prepares), (1, 0, None));
        assert_ne!(fold(&prepared, true).prepares, None, "a check is another statement");
    }

    #[test]
    fn a_session_that_is_not_known_keeps_no_statement() {
        let text = fold(&PreparedNames::default(), true);
        let (name, is_kept) = text.prepares.clone().expect("a name");
        assert!(!is_kept && name.len() < 64, "{name}");
        assert!(text.sql.ends_with(&format!("; DEALLOCATE \"{name}\"")), "{}", text.sql);
        assert_eq!((text.results, text.before, text.check), (3, 1, Some(1)));
    }

    #[test]
    fn a_statement_whose_rows_cannot_be_counted_is_sent_on_its_own() {
        for sql in ["WITH a AS (SELECT 1) UPDATE t SET b = 1", "DELETE FROM t RETURNING id", "SELECT 1"] {
            assert_eq!(checked(sql), None, "{sql}");
        }
    }
}
