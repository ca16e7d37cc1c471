use super::*;

fn simple(sql: &str) -> Option<SimpleStatement> {
    SimpleStatement::of(Syntax::Postgres, sql, &[])
}

#[test]
fn statements_with_unknown_effects_are_not_simple() {
    for sql in [
        "SELECT nextval('s')",
        "SELECT a INTO b FROM t",
        "SELECT a FROM t WHERE id = (SELECT 1)",
        "WITH x AS (DELETE FROM t RETURNING id) SELECT id FROM x",
        "UPDATE t SET a = f(1) WHERE id = 1",
        "INSERT INTO t (id) VALUES (f(1))",
        "INSERT INTO t SELECT 1",
        "UPDATE t SET a = 1; UPDATE u SET a = 1",
        "UPDATE t SET a = u.a FROM u WHERE u.id = t.id",
        "DELETE FROM t USING u WHERE u.id = t.id",
        "SET LOCAL lock_timeout = 5",
        "TRUNCATE t",
    ] {
        assert!(simple(sql).is_none(), "{sql}");
    }
    for sql in
        ["SELECT count(*) FROM t", "INSERT INTO t (id, a) VALUES (1, 2)", "DELETE FROM t WHERE id IN (1)"]
    {
        assert!(simple(sql).is_some(), "{sql}");
    }
}

#[test]
fn tables_of_derived_tables_are_read() {
    let read = simple("SELECT (a) FROM (SELECT 1 AS one) AS one LEFT JOIN (SELECT a FROM t) AS t ON one = a");
    let read = read.expect("simple");
    assert!(read.is_plain_read && read.reads_committed_rows());
    assert!(!read.has_other_tables(&simple("DELETE FROM t").expect("simple")));
    assert!(read.has_other_tables(&simple("DELETE FROM u").expect("simple")));
    for unknown in [
        "SELECT a FROM (SELECT a FROM t UNION SELECT a FROM u) AS both",
        "SELECT a FROM (SELECT a FROM t FOR SHARE) AS locked",
        "SELECT a FROM (SELECT f(a) FROM t) AS called",
        "SELECT a FROM (TABLE t) AS t",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)",
        "SELECT a FROM (t JOIN u ON t.id = u.id)",
    ] {
        assert!(simple(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn system_tables_and_columns_show_what_is_not_committed() {
    for sql in ["SELECT xmax FROM t", "SELECT count(*) FROM pg_locks", "SELECT a FROM other.t"] {
        assert!(!simple(sql).expect("simple").reads_committed_rows(), "{sql}");
    }
}

#[test]
fn reads_with_locks_are_not_plain() {
    assert!(simple("SELECT a FROM t").expect("simple").is_plain_read);
    let [exclusive, shared] = ["NO KEY UPDATE", "KEY SHARE"]
        .map(|strength| simple(&format!("SELECT a FROM t FOR {strength}")).expect("simple"));
    assert!(!exclusive.is_plain_read && !exclusive.locks_in_share_mode);
    assert!(!shared.is_plain_read && shared.locks_in_share_mode);
}

#[test]
fn an_insert_that_may_be_skipped_is_disjoint_from_no_other_insert() {
    let plain = simple("INSERT INTO t (id, a) VALUES (1, 2)").expect("simple");
    assert!(plain.inserts());
    let skipped = "INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT DO NOTHING";
    let skipped = simple(skipped).expect("simple");
    assert!(!skipped.inserts() && !skipped.is_disjoint(&plain) && !skipped.is_disjoint(&skipped));
    let upsert = "INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET a = 3";
    let upsert = simple(upsert).expect("simple");
    assert!(!upsert.inserts() && !upsert.is_disjoint(&plain) && !upsert.is_disjoint(&upsert));
    assert!(!upsert.is_disjoint(&simple("UPDATE t SET a = 1 WHERE id = 2").expect("simple")));
    assert!(upsert.is_disjoint(&simple("UPDATE u SET a = 1 WHERE id = 1").expect("simple")));
    let with_subquery = "INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET a = (SELECT 3)";
    assert!(simple(with_subquery).is_none());
}

#[test]
fn a_change_by_a_list_of_values_concerns_its_own_table() {
    let change = "WITH c (id, n) AS (VALUES ($1, $2)) UPDATE t SET a = t.a + c.n FROM c WHERE t.id = c.id";
    let change = simple(change).expect("simple");
    assert!(!change.is_disjoint(&simple("UPDATE t SET a = 1 WHERE id = 2").expect("simple")));
    assert!(change.is_disjoint(&simple("UPDATE u SET a = 1").expect("simple")));
    for unknown in [
        "WITH c (id) AS (VALUES (f(1))) UPDATE t SET a = 1 FROM c WHERE t.id = c.id",
        "WITH c (id) AS (VALUES (1)) UPDATE t SET a = f(1) FROM c WHERE t.id = c.id",
        "WITH c (id) AS (VALUES (1)) UPDATE t SET a = 1 FROM c, u WHERE t.id = c.id",
        "WITH c (id) AS (SELECT id FROM u) UPDATE t SET a = 1 FROM c WHERE t.id = c.id",
    ] {
        assert!(simple(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn the_time_is_no_effect_of_other_statements() {
    let now = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint";
    let sql = format!("UPDATE t SET a = {now} WHERE id = 1 AND b > {now}");
    assert!(simple(&sql).is_some());
}

#[test]
fn rows_are_disjoint_if_an_unchanged_column_has_different_integers() {
    let first = simple("UPDATE t SET a = 1 WHERE id = 1").expect("simple");
    for (sql, is_disjoint) in [
        ("SELECT a FROM t WHERE id = 2 FOR UPDATE", true),
        ("SELECT a FROM t WHERE id = 1", false),
        ("SELECT a FROM t WHERE id = '1.0'", false),
        ("SELECT a FROM t WHERE a = 2", false),
        ("SELECT a FROM t WHERE id = 2 OR a = 3", false),
        ("UPDATE t SET id = 1 WHERE id = 2", false),
        ("INSERT INTO t VALUES (2)", false),
        ("INSERT INTO t (id, a) VALUES (2, 3)", true),
        ("INSERT INTO t (id, a) VALUES (1, 3)", false),
        ("INSERT INTO t (id, a) VALUES (2, 3), (1, 3)", false),
        ("INSERT INTO t (a) VALUES (2)", false),
        ("INSERT INTO u VALUES (2)", true),
        ("SELECT a FROM u WHERE id = 1", true),
    ] {
        assert_eq!(first.is_disjoint(&simple(sql).expect("simple")), is_disjoint, "{sql}");
    }
}
