//! Which locks are determined from which statements, for each database.

use std::sync::Arc;

use super::*;
use crate::sql_text::Syntax::{self, MySql, Postgres, Sqlite};
use crate::testing::lock_order::catalog::Catalog;

/// Tables with the primary key `id`, a few with another key, and one with several unique keys.
fn keys() -> TableKeys {
    let line = |visible: &str, schema: &str, table: &str, key: &str, column: &str| {
        let primary = if key == "primary" { "1" } else { "0" };
        [visible, schema, table, key, primary, column].join("\u{1f}")
    };
    let mut lines: Vec<String> = ["account", "owner", "a", "b", "job"]
        .iter()
        .map(|table| line("1", "public", table, "primary", "id"))
        .collect();
    lines.extend([
        line("0", "bank", "account", "primary", "id"),
        line("1", "public", "event", "primary", "id"),
        line("1", "public", "item", "primary", "tenant"),
        line("1", "public", "item", "primary", "id"),
        line("1", "public", "member", "by_email", "email"),
        line("1", "public", "member", "primary", "id"),
        line("1", "public", "odd", "primary", "id"),
        line("1", "public", "odd", "by_expression", ""),
        line("1", "public", "log", "", ""),
    ]);
    TableKeys {
        declared: Arc::new([("event".to_owned(), vec!["code".to_owned()])].into()),
        catalog: Arc::new(Catalog::parse(&lines)),
    }
}

/// The effects as text: `Update: account id=1 < account id=2`, with `&` for `<` if the order is unknown.
fn shown(syntax: Syntax, sql: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let shown = effects(syntax, &keys(), sql, &arguments).into_iter().map(|effect| match effect {
        Effect::Locks(Locking { locks, strength, waits, ordered, granted, session }) => {
            let locks: Vec<String> = locks.iter().map(ToString::to_string).collect();
            let locks = locks.join(if ordered { " < " } else { " & " });
            let at_once = if waits { "" } else { " at once" };
            let session = if session { " for the session" } else { "" };
            let granted = if granted == Granted::IfTrue { " if granted" } else { "" };
            format!("{strength:?}: {locks}{at_once}{session}{granted}")
        }
        Effect::Unlocks(None) => String::from("unlocks everything"),
        Effect::Unlocks(Some((lock, strength))) => format!("unlocks {strength:?}: {lock}"),
        Effect::Reads(rows) => {
            format!("reads {}", rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Effect::Savepoint(name) => format!("savepoint {name}"),
        Effect::RollbackTo(name) => format!("back to {name}"),
        Effect::Unknown(reason) => format!("? {reason:?}"),
    });
    shown.collect::<Vec<_>>().join("; ")
}

const SERVERS: [Syntax; 2] = [Postgres, MySql];
const ALL: [Syntax; 3] = [Postgres, MySql, Sqlite];

fn check(syntaxes: &[Syntax], cases: &[(&str, &str)]) {
    for syntax in syntaxes {
        for (sql, expected) in cases {
            assert_eq!(shown(*syntax, sql, &[]), *expected, "{syntax:?}: {sql}");
        }
    }
}

#[test]
fn a_select_locks_by_its_clause() {
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
fn a_clause_locks_the_tables_that_it_names() {
    let join = "SELECT * FROM account a JOIN owner o ON o.id = a.owner WHERE a.id = 1";
    for (clause, expected) in [
        ("FOR UPDATE OF a", "Update: account id=1"),
        ("FOR UPDATE OF o", "? Rows"),
        ("FOR UPDATE", "Update: account id=1; ? Rows"),
        ("AND o.id = 2 FOR UPDATE OF a FOR SHARE OF o", "Update: account id=1; Share: owner id=2"),
    ] {
        check(&SERVERS, &[(&format!("{join} {clause}"), expected)]);
    }
    // The unqualified `id` is ambiguous.
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
fn rows_are_ordered_only_by_an_order_by_clause() {
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
fn a_row_is_identified_by_all_its_key_columns() {
    let item = |condition: &str| format!("UPDATE item SET n = 1 WHERE {condition}");
    for (condition, expected) in [
        ("tenant = 1 AND id = 2", "NoKeyUpdate: item tenant=1, id=2"),
        ("id = 2", "? Rows"),
        ("id = 2 AND tenant IN (1, 2)", "NoKeyUpdate: item tenant=1, id=2 & item tenant=2, id=2"),
    ] {
        check(&ALL, &[(&item(condition), expected)]);
    }
    let select = "SELECT * FROM item WHERE tenant = 1 AND id IN (2, 1)";
    for (order, expected) in [
        ("ORDER BY id FOR UPDATE", "Update: item tenant=1, id=1 < item tenant=1, id=2"),
        ("ORDER BY tenant, id DESC FOR UPDATE", "Update: item tenant=1, id=2 < item tenant=1, id=1"),
        ("ORDER BY tenant FOR UPDATE", "Update: item tenant=1, id=2 & item tenant=1, id=1"),
    ] {
        check(&SERVERS, &[(&format!("{select} {order}"), expected)]);
    }
}

#[test]
fn a_qualified_name_denotes_the_table_on_the_search_path() {
    check(
        &SERVERS,
        &[
            ("SELECT * FROM public.account WHERE id = 1 FOR UPDATE", "Update: account id=1"),
            ("SELECT * FROM bank.account WHERE id = 1 FOR UPDATE", "Update: bank.account id=1"),
        ],
    );
}

#[test]
fn a_write_locks_the_rows_that_its_condition_identifies() {
    check(
        &ALL,
        &[
            ("UPDATE account SET balance = 2 WHERE id = 1", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET balance = 2 WHERE id = 1 AND version = 3", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET balance = 2 WHERE (version = 3 AND (1 = id))", "NoKeyUpdate: account id=1"),
            ("UPDATE account SET id = 2 WHERE id = 1", "Update: account id=1; Update: account id=2"),
            ("UPDATE account SET id = id + 1 WHERE id = 1", "Update: account id=1; ? Rows"),
            ("UPDATE elsewhere SET n = 2 WHERE id = 1", "? Keys; NoKeyUpdate: elsewhere id=1"),
            ("UPDATE odd SET n = 2 WHERE id = 1", "NoKeyUpdate: odd id=1; ? Keys"),
            ("UPDATE log SET n = 2 WHERE id = 1", "? Rows"),
            ("UPDATE member SET email = 'b' WHERE id = 1", "Update: member id=1; Update: member email=b"),
            ("UPDATE member SET email = lower(email) WHERE id = 1", "Update: member id=1; ? Rows"),
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
fn an_insert_locks_its_unique_keys() {
    check(
        &ALL,
        &[
            (
                "INSERT INTO account (id, balance) VALUES (2, 0), (1, 0)",
                "Update: account id=2 < account id=1",
            ),
            ("INSERT INTO account (balance) VALUES (1)", ""),
            ("INSERT INTO account (id, balance) VALUES (gen_random_uuid(), 0)", ""),
            ("INSERT INTO account (id, balance) VALUES (make(), 0)", "? Rows"),
            ("INSERT INTO member (email) VALUES ('a')", "Update: member email=a"),
            ("INSERT INTO member (email) VALUES (NULL)", ""),
            ("INSERT INTO member (id, email) VALUES (1, lower('A'))", "? Rows; Update: member id=1"),
            (
                "INSERT INTO member (id, email) VALUES (1, 'a'), (2, 'b')",
                "Update: member id=1 < member email=a < member id=2 < member email=b",
            ),
            ("INSERT INTO item (tenant, id) VALUES (1, 2)", "Update: item tenant=1, id=2"),
            ("INSERT INTO log VALUES (1)", ""),
            ("INSERT INTO elsewhere (id) VALUES (1)", "? Keys; Update: elsewhere id=1"),
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
fn placeholders_stand_for_their_bound_values() {
    let arguments = ["0", "'it''s'", "…", "NULL"];
    let update = |key: &str| format!("UPDATE account SET n = $1 WHERE id = {key}");
    for syntax in [Postgres, Sqlite] {
        assert_eq!(shown(syntax, &update("$2"), &arguments), "NoKeyUpdate: account id=it's");
        for unreadable in ["$3", "$4", "$5"] {
            assert_eq!(shown(syntax, &update(unreadable), &arguments), "? Rows", "{unreadable}");
        }
    }
    for syntax in [MySql, Sqlite] {
        let sql = "UPDATE account SET n = ? WHERE id IN (?)";
        assert_eq!(shown(syntax, sql, &arguments), "NoKeyUpdate: account id=it's");
    }
    assert_eq!(
        shown(Sqlite, "UPDATE account SET n = ?1 WHERE id = ?2", &arguments),
        "NoKeyUpdate: account id=it's"
    );
}

#[test]
fn nested_queries_are_not_ignored() {
    check(
        &[Postgres],
        &[
            (
                "WITH x AS (SELECT id FROM job FOR UPDATE SKIP LOCKED) \
                 UPDATE job SET n = 1 FROM x WHERE job.id = 1",
                "? Rows; NoKeyUpdate: job id=1",
            ),
            ("WITH x AS (DELETE FROM job RETURNING id) SELECT * FROM x", "? Rows"),
            ("SELECT * FROM (SELECT id FROM job FOR UPDATE) AS x", "? Rows"),
            ("WITH x AS (SELECT 1) SELECT * FROM x", ""),
            ("LOCK TABLE job", "? Rows"),
            ("TRUNCATE job", "? Rows"),
            ("ALTER TABLE job ADD COLUMN n BIGINT", "? Rows"),
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
fn calls_of_lock_functions_are_recognized() {
    check(
        &[Postgres],
        &[
            (
                "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock(-42)) AS taken",
                "Update: advisory lock -42",
            ),
            (
                "SELECT pg_try_advisory_xact_lock(42)::int::bigint",
                "Update: advisory lock 42 at once if granted",
            ),
            ("SELECT pg_advisory_xact_lock_shared(1, 2)", "Share: advisory lock 1,2"),
            ("SELECT pg_advisory_lock(1::bigint)", "Update: advisory lock 1 for the session"),
            ("SELECT pg_advisory_unlock(1)", "unlocks Update: advisory lock 1"),
            ("SELECT pg_advisory_unlock_all()", "unlocks everything"),
            ("SELECT pg_advisory_lock(hashtext($1))", "? Rows"),
            ("SELECT pg_advisory_xact_lock(hashtext('a')::bigint)", "Update: advisory lock hashtext(a)"),
            ("SELECT pg_advisory_xact_lock(id) FROM account WHERE id = 1", "? Rows"),
            ("SELECT pg_advisory_xact_lock(1) FROM account WHERE id = 1", "? Rows"),
            ("SELECT CASE WHEN true THEN pg_advisory_xact_lock(1) END", "? Rows"),
            ("SELECT pg_advisory_xact_lock(1.5::int)", "? Rows"),
        ],
    );
    check(
        &[MySql],
        &[
            (
                "SELECT CAST(GET_LOCK('day, 7', 3) AS SIGNED)",
                "Update: advisory lock day, 7 for the session if granted",
            ),
            (
                "SELECT CAST(GET_LOCK('Day', 0) AS SIGNED)",
                "Update: advisory lock day at once for the session if granted",
            ),
            ("DO RELEASE_LOCK('day')", "? Rows; ? Text"),
            ("SELECT RELEASE_LOCK('day')", "unlocks Update: advisory lock day"),
        ],
    );
    assert_eq!(shown(Postgres, "SELECT pg_advisory_xact_lock($1)", &["5"]), "Update: advisory lock 5");
}

#[test]
fn savepoints_are_recognized() {
    check(
        &ALL,
        &[
            ("SAVEPOINT atomically_1", "savepoint atomically_1"),
            ("ROLLBACK TO SAVEPOINT atomically_1; RELEASE SAVEPOINT atomically_1", "back to atomically_1"),
        ],
    );
}

#[test]
fn reads_on_sqlite_may_stand_for_locks() {
    check(
        &[Sqlite],
        &[
            ("SELECT id FROM account WHERE id IN (2, 1) ORDER BY id", "reads account id=2, account id=1"),
            ("SELECT id FROM account", ""),
        ],
    );
}
