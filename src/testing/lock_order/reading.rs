//! What is read from statements, database by database.

use super::rows::Keys;
use super::sql::Dialect::{self, MySql, Postgres, Sqlite};
use super::sql::{Effect, effects};

/// `Update: account id=1 < account id=2`, and `&` in place of `<` where the order is the server's.
fn shown(dialect: Dialect, sql: &str, arguments: &[&str]) -> String {
    let keys = Keys([("event".to_owned(), "code".to_owned())].into());
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let shown = effects(dialect, &keys, sql, &arguments).into_iter().map(|effect| match effect {
        Effect::Locks { locks, strength, waits, ordered } => {
            let locks: Vec<String> = locks.iter().map(ToString::to_string).collect();
            let locks = locks.join(if ordered { " < " } else { " & " });
            format!("{strength:?}: {locks}{}", if waits { "" } else { " at once" })
        }
        Effect::Reads(rows) => {
            format!("reads {}", rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Effect::Savepoint(name) => format!("savepoint {name}"),
        Effect::RollbackTo(name) => format!("back to {name}"),
        Effect::Unclear(why) => format!("? {why:?}"),
    });
    shown.collect::<Vec<_>>().join("; ")
}

const SERVERS: [Dialect; 2] = [Postgres, MySql];
const ALL: [Dialect; 3] = [Postgres, MySql, Sqlite];

fn check(dialects: &[Dialect], cases: &[(&str, &str)]) {
    for dialect in dialects {
        for (sql, expected) in cases {
            assert_eq!(shown(*dialect, sql, &[]), *expected, "{dialect:?}: {sql}");
        }
    }
}

#[test]
fn selects_lock_what_their_clause_says() {
    check(
        &SERVERS,
        &[
            ("SELECT * FROM account WHERE id = 1", ""),
            ("SELECT * FROM account WHERE id = 1 FOR UPDATE", "Update: account id=1"),
            ("select * from Account where ID = 1 for update;", "Update: account id=1"),
            ("SELECT * FROM account WHERE id = 1 FOR SHARE", "Share: account id=1"),
            ("SELECT * FROM account WHERE id = 1 FOR UPDATE NOWAIT", "Update: account id=1 at once"),
            (
                "SELECT * FROM account WHERE id = 1 LIMIT 1 FOR UPDATE SKIP LOCKED",
                "Update: account id=1 at once",
            ),
            ("SELECT * FROM account a WHERE a.id = 1 FOR UPDATE OF a", "Update: account id=1"),
            ("SELECT * FROM bank.account WHERE account.id = 1 FOR UPDATE", "Update: bank.account id=1"),
        ],
    );
    check(
        &[Postgres],
        &[
            ("SELECT * FROM account WHERE id = 1 FOR NO KEY UPDATE", "NoKeyUpdate: account id=1"),
            ("SELECT * FROM account WHERE id = 1 FOR KEY SHARE NOWAIT", "KeyShare: account id=1 at once"),
            ("SELECT * FROM account WHERE id = '7'::bigint FOR UPDATE", "Update: account id=7"),
            (r#"SELECT * FROM "account" WHERE "id" = -3 FOR UPDATE"#, "Update: account id=-3"),
        ],
    );
    check(
        &[MySql],
        &[
            ("SELECT * FROM account WHERE id = 1 LOCK IN SHARE MODE", "Share: account id=1"),
            ("SELECT * FROM `account` WHERE `id` = 1 FOR UPDATE", "Update: account id=1"),
            (
                "SELECT * FROM account WHERE id = 1 /*M! LOCK IN SHARE MODE*/ /*!50799 FOR SHARE*/ NOWAIT",
                "Share: account id=1 at once",
            ),
        ],
    );
}

#[test]
fn tables_are_told_apart() {
    let join = "SELECT * FROM account a JOIN owner o ON o.id = a.owner WHERE a.id = 1";
    for (clause, expected) in [
        ("FOR UPDATE OF a", "Update: account id=1"),
        ("FOR UPDATE OF o", "? Rows"),
        ("FOR UPDATE", "Update: account id=1; ? Rows"),
        ("AND o.id = 2 FOR UPDATE OF a FOR SHARE OF o", "Update: account id=1; Share: owner id=2"),
    ] {
        check(&SERVERS, &[(&format!("{join} {clause}"), expected)]);
    }
    // Whose `id` it is nobody knows.
    check(&SERVERS, &[("SELECT * FROM a, b WHERE id = 1 FOR UPDATE OF a", "? Rows")]);
    check(
        &SERVERS,
        &[("SELECT * FROM event WHERE code = 'x' AND id = 1 FOR UPDATE", "Update: event code=x")],
    );
    check(
        &SERVERS,
        &[("SELECT * FROM (SELECT 1) AS x, a WHERE a.id = 1 FOR UPDATE", "Update: a id=1; ? Rows")],
    );
}

#[test]
fn several_rows_have_an_order_only_if_they_are_sorted() {
    let select = "SELECT * FROM account WHERE id IN (10, 9, 10)";
    for (order, expected) in [
        ("FOR UPDATE", "Update: account id=10 & account id=9"),
        ("ORDER BY id FOR UPDATE", "Update: account id=9 < account id=10"),
        ("ORDER BY account.id DESC FOR UPDATE", "Update: account id=10 < account id=9"),
        ("ORDER BY balance, id FOR UPDATE", "Update: account id=10 & account id=9"),
    ] {
        check(&SERVERS, &[(&format!("{select} {order}"), expected)]);
    }
    check(
        &[MySql],
        &[(
            "UPDATE account SET n = 0 WHERE id IN (10, 9) ORDER BY id",
            "NoKeyUpdate: account id=9 < account id=10",
        )],
    );
}

#[test]
fn writes_lock_what_they_name() {
    check(
        &ALL,
        &[
            ("UPDATE account SET balance = 2 WHERE id = 1", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET balance = 2 WHERE id = 1 AND version = 3", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET balance = 2 WHERE (version = 3 AND (1 = id))", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET id = 2 WHERE id = 1", "Update: account id=1"),
            ("UPDATE account SET balance = 2 WHERE id = 1 OR id = 2", "? Rows"),
            ("UPDATE account SET balance = 2 WHERE id > 1", "? Rows"),
            ("UPDATE account SET balance = 2 WHERE id NOT IN (1)", "? Rows"),
            ("UPDATE account SET balance = 2 WHERE id = other", "? Rows"),
            ("UPDATE account SET balance = 2 WHERE id IN (SELECT 1)", "? Rows"),
            ("UPDATE account SET balance = 2", "? Rows"),
            ("DELETE FROM account WHERE id = 1", "Update: account id=1"),
            ("DELETE FROM account", "? Rows"),
            ("UPDATE account SET SET", "? Text"),
            ("SELECT 'FOR UPDATE'", ""),
            ("CREATE TABLE account (id BIGINT)", ""),
        ],
    );
    check(
        &[Postgres, Sqlite],
        &[("UPDATE a SET n = b.n FROM b WHERE a.id = 1 AND b.id = 2", "NoKeyUpdate: a id=1")],
    );
    check(
        &[MySql],
        &[(
            "UPDATE a JOIN b ON a.n = b.n SET a.n = 1 WHERE a.id = 1 AND b.id = 2",
            "NoKeyUpdate: a id=1; NoKeyUpdate: b id=2",
        )],
    );
}

#[test]
fn inserts_lock_the_keys_they_name() {
    check(
        &ALL,
        &[
            (
                "INSERT INTO account (id, balance) VALUES (2, 0), (1, 0)",
                "Update: account id=2 < account id=1",
            ),
            ("INSERT INTO account (balance) VALUES (1)", ""),
            ("INSERT INTO account (id, balance) VALUES (make(), 0)", ""),
            ("INSERT INTO account VALUES (1, 2)", "? Rows"),
            ("INSERT INTO account (id) SELECT 1", "? Rows"),
        ],
    );
    check(
        &[Postgres, Sqlite],
        &[
            (
                "INSERT INTO account (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1",
                "Update: account id=1",
            ),
            ("INSERT INTO account (id) VALUES (1) ON CONFLICT DO NOTHING", "Update: account id=1"),
            (
                "INSERT INTO account (id, name) VALUES (1, 'a') ON CONFLICT (name) DO UPDATE SET n = 1",
                "Update: account id=1; ? Rows",
            ),
            ("INSERT INTO account (name) VALUES ('a') ON CONFLICT (name) DO UPDATE SET n = 1", "? Rows"),
        ],
    );
    check(
        &[MySql],
        &[
            ("INSERT INTO account (id) VALUES (1) ON DUPLICATE KEY UPDATE n = 1", "Update: account id=1"),
            ("INSERT INTO account (name) VALUES ('a') ON DUPLICATE KEY UPDATE n = 1", "? Rows"),
            ("INSERT INTO account SET id = 1, n = 2", "Update: account id=1"),
            ("REPLACE INTO account (id) VALUES (1)", "Update: account id=1"),
        ],
    );
}

#[test]
fn bound_values_stand_for_themselves() {
    let arguments = ["0", "'it''s'", "…", "NULL"];
    let update = |key: &str| format!("UPDATE account SET n = $1 WHERE id = {key}");
    for dialect in [Postgres, Sqlite] {
        assert_eq!(shown(dialect, &update("$2"), &arguments), "NoKeyUpdate: account id=it's");
        for unreadable in ["$3", "$4", "$5"] {
            assert_eq!(shown(dialect, &update(unreadable), &arguments), "? Rows", "{unreadable}");
        }
    }
    for dialect in [MySql, Sqlite] {
        let sql = "UPDATE account SET n = ? WHERE id IN (?)";
        assert_eq!(shown(dialect, sql, &arguments), "NoKeyUpdate: account id=it's");
    }
    assert_eq!(
        shown(Sqlite, "UPDATE account SET n = ?1 WHERE id = ?2", &arguments),
        "NoKeyUpdate: account id=it's"
    );
}

#[test]
fn queries_inside_of_queries_are_not_passed_over() {
    check(
        &[Postgres],
        &[
            (
                "WITH x AS (SELECT id FROM job FOR UPDATE SKIP LOCKED) UPDATE job SET n = 1 FROM x WHERE job.id = 1",
                "? Rows; NoKeyUpdate: job id=1",
            ),
            ("WITH x AS (DELETE FROM job RETURNING id) SELECT * FROM x", "? Rows"),
            ("SELECT * FROM (SELECT id FROM job FOR UPDATE) AS x", "? Rows"),
            ("WITH x AS (SELECT 1) SELECT * FROM x", ""),
            ("LOCK TABLE job", "? Rows"),
            ("MERGE INTO job USING x ON x.id = job.id WHEN MATCHED THEN DELETE", "? Rows"),
        ],
    );
    check(
        &ALL,
        &[(
            "UPDATE a SET n = 1 WHERE id = 1; SELECT 1; UPDATE a SET n = 1 WHERE id = 2",
            "NoKeyUpdate: a id=1; NoKeyUpdate: a id=2",
        )],
    );
}

#[test]
fn advisory_locks_are_known_by_their_functions() {
    check(
        &[Postgres],
        &[
            (
                "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(-42)) AS taken",
                "Update: advisory lock -42",
            ),
            ("SELECT pg_try_advisory_xact_lock(42)::int::bigint", "Update: advisory lock 42 at once"),
            ("SELECT pg_advisory_xact_lock_shared(1, 2)", "Share: advisory lock 1,2"),
            ("SELECT pg_advisory_unlock(1)", ""),
            ("SELECT pg_advisory_lock(hashtext($1))", "? Rows"),
        ],
    );
    check(
        &[MySql],
        &[
            ("SELECT CAST(GET_LOCK('day, 7', 3) AS SIGNED)", "Update: advisory lock day, 7"),
            ("SELECT CAST(GET_LOCK('day', 0) AS SIGNED)", "Update: advisory lock day at once"),
        ],
    );
    assert_eq!(shown(Postgres, "SELECT pg_advisory_xact_lock($1)", &["5"]), "Update: advisory lock 5");
}

#[test]
fn savepoints_are_known() {
    check(
        &ALL,
        &[
            ("SAVEPOINT atomically_1", "savepoint atomically_1"),
            ("ROLLBACK TO SAVEPOINT atomically_1; RELEASE SAVEPOINT atomically_1", "back to atomically_1"),
        ],
    );
}

/// Without row locks, what is read may have been meant to be locked.
#[test]
fn sqlite_reads() {
    check(
        &[Sqlite],
        &[
            ("SELECT id FROM account WHERE id IN (2, 1) ORDER BY id", "reads account id=2, account id=1"),
            ("SELECT id FROM account", ""),
        ],
    );
}
