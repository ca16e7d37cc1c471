//! Recognizes statements that may wait for locks.

use super::Token;

/// Returns whether a statement may wait for locks: it writes, or locks the rows that it reads.
pub(super) fn may_wait_for_locks(tokens: &[Token<'_>]) -> bool {
    const CONTROL: [&str; 4] = ["SAVEPOINT", "RELEASE", "ROLLBACK", "SET"];
    // A SELECT contains these words if it locks (`FOR UPDATE`, `LOCK IN SHARE MODE`) or its WITH writes.
    const LOCKS: [&str; 8] = ["UPDATE", "INSERT", "DELETE", "MERGE", "REPLACE", "SHARE", "LOCK", "GET_LOCK"];
    const ADVISORY: &[u8] = b"pg_advisory";
    let Some(first) = tokens.first() else { return false };
    let is_advisory = |token: &Token<'_>| {
        let start = token.text.as_bytes().get(..ADVISORY.len());
        token.is_name() && start.is_some_and(|start| start.eq_ignore_ascii_case(ADVISORY))
    };
    !first.is_any_word(&CONTROL) && tokens.iter().any(|token| token.is_any_word(&LOCKS) || is_advisory(token))
}

#[cfg(test)]
mod tests {
    use super::super::{Syntax, TokenizedText};
    use super::may_wait_for_locks;

    #[test]
    fn statements_that_lock_are_recognized() {
        for (syntax, sql, wanted) in [
            (Syntax::Sqlite, "UPDATE account SET balance = 1", true),
            (Syntax::Postgres, "insert into t values (1)", true),
            (Syntax::Postgres, "SELECT seats FROM event WHERE id = $1 FOR NO KEY UPDATE", true),
            (Syntax::MySql, "SELECT 1 FROM t FOR SHARE", true),
            (Syntax::MySql, "SELECT id FROM t LOCK IN SHARE MODE", true),
            (Syntax::MySql, "SELECT id FROM t /*M! LOCK IN SHARE MODE*/ /*!50799 FOR SHARE*/", true),
            (Syntax::Postgres, "WITH gone AS (DELETE FROM t RETURNING id) SELECT id FROM gone", true),
            (Syntax::Postgres, "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(7)) AS taken", true),
            (Syntax::MySql, "SELECT CAST(GET_LOCK('a', 1) AS SIGNED)", true),
            (Syntax::Postgres, "LOCK TABLE t", true),
            (Syntax::Postgres, "/* the SET of all */ UPDATE t SET a = 1", true),
            (Syntax::Postgres, "", false),
            (Syntax::Postgres, "SELECT updated FROM t WHERE locked = 1", false),
            (Syntax::Postgres, "SAVEPOINT atomically_1", false),
            (Syntax::Sqlite, "ROLLBACK TO SAVEPOINT atomically_1; RELEASE SAVEPOINT atomically_1", false),
            (Syntax::Postgres, "SET LOCAL lock_timeout = 7", false),
        ] {
            assert_eq!(may_wait_for_locks(&TokenizedText::usual(syntax, sql).tokens), wanted, "{sql}");
        }
    }

    #[test]
    fn words_in_comments_literals_and_names_are_ignored() {
        for sql in [
            "SELECT a FROM t -- before the update",
            "SELECT a FROM t /* FOR UPDATE */",
            "SELECT a FROM t WHERE b = 'please delete me'",
            "SELECT \"update\" FROM t",
        ] {
            for syntax in [Syntax::Postgres, Syntax::MySql, Syntax::Sqlite] {
                assert!(!may_wait_for_locks(&TokenizedText::usual(syntax, sql).tokens), "{sql}");
            }
        }
    }
}
