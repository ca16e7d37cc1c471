use super::*;

fn locked(syntax: Syntax, text: &str) -> Result<String, String> {
    match with_lock_clause(syntax, text, None, Some("FOR UPDATE")) {
        Ok(text) => Ok(text.expect("a clause")),
        Err(obstacle) => Err(obstacle.explain(syntax)),
    }
}

#[test]
fn the_clause_has_a_line_of_its_own_before_comments() {
    for (text, expected) in [
        ("SELECT n FROM seat WHERE id = 1 -- hot\n", "SELECT n FROM seat WHERE id = 1\nFOR UPDATE\n-- hot"),
        ("SELECT n FROM seat ; -- a; b\n /* c; */;", "SELECT n FROM seat\nFOR UPDATE\n-- a; b\n /* c; */"),
        ("SELECT ';' FROM seat LIMIT 1;", "SELECT ';' FROM seat LIMIT 1\nFOR UPDATE"),
    ] {
        assert_eq!(locked(Syntax::Postgres, text).as_deref(), Ok(expected));
    }
    assert_eq!(
        locked(Syntax::MySql, "SELECT n FROM seat # hot").expect("a text"),
        "SELECT n FROM seat\nFOR UPDATE\n# hot"
    );
}

#[test]
fn messages_have_the_reason_and_the_remedy() {
    let message = locked(Syntax::Postgres, "WITH a AS (SELECT 1) SELECT * FROM a").expect_err("a CTE");
    assert_eq!(
        message,
        "cannot lock the rows of this query on PostgreSQL: it begins with WITH, and a lock clause \
         does not lock the rows of a common table expression; lock the table's rows with a SELECT of their \
         own, or name the table: RowLock::NO_KEY_UPDATE.of(\"event\")"
    );
}

#[test]
fn sqlite_refuses_only_texts_that_are_no_select() {
    for text in [
        "SELECT * FROM (SELECT * FROM t) UNION SELECT 1",
        "WITH a AS (SELECT 1) SELECT * FROM a;",
        "SELECT count(*) FROM t -- FOR UPDATE",
    ] {
        assert_eq!(with_lock_clause(Syntax::Sqlite, text, None, None), Ok(None), "{text}");
    }
    for text in [
        "",
        "UPDATE t SET n = 1",
        "WITH a AS (SELECT 1) DELETE FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT 1; SELECT 2",
        "VALUES (1)",
        "SELECT 'a",
    ] {
        assert!(with_lock_clause(Syntax::Sqlite, text, None, None).is_err(), "{text}");
    }
}
