//! Which statements ask for locks.

/// Whether a statement may have to wait for rows that others have locked: it writes, or locks what it reads.
pub(super) fn asks_for_locks(sql: &str) -> bool {
    const CONTROL: [&str; 4] = ["SAVEPOINT", "RELEASE", "ROLLBACK", "SET"];
    // A SELECT has these words where it locks (`FOR UPDATE`, `LOCK IN SHARE MODE`), or where a WITH writes.
    const LOCKS: [&str; 8] = ["UPDATE", "INSERT", "DELETE", "MERGE", "REPLACE", "SHARE", "LOCK", "GET_LOCK"];
    const ADVISORY: &[u8] = b"pg_advisory";
    let mut words =
        sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let is = |word: &str, names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(word));
    let Some(first) = words.next() else { return false };
    !is(first, &CONTROL)
        && std::iter::once(first).chain(words).any(|word| {
            let start = word.as_bytes().get(..ADVISORY.len());
            is(word, &LOCKS) || start.is_some_and(|start| start.eq_ignore_ascii_case(ADVISORY))
        })
}

#[cfg(test)]
mod tests {
    use super::asks_for_locks;

    #[test]
    fn statements_that_lock_are_known() {
        for sql in [
            "UPDATE account SET balance = 1",
            "insert into t values (1)",
            "SELECT seats FROM event WHERE id = $1 FOR NO KEY UPDATE",
            "SELECT 1 FROM t FOR SHARE",
            "SELECT id FROM t LOCK IN SHARE MODE",
            "WITH gone AS (DELETE FROM t RETURNING id) SELECT id FROM gone",
            "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(7)) AS taken",
            "SELECT CAST(GET_LOCK('a', 1) AS SIGNED)",
            "LOCK TABLE t",
        ] {
            assert!(asks_for_locks(sql), "{sql}");
        }
        for sql in [
            "",
            "SELECT updated FROM t WHERE locked = 1",
            "SAVEPOINT atomically_1",
            "ROLLBACK TO SAVEPOINT atomically_1; RELEASE SAVEPOINT atomically_1",
            "SET LOCAL lock_timeout = 7",
        ] {
            assert!(!asks_for_locks(sql), "{sql}");
        }
    }
}
