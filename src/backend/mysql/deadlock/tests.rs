//! Reports as servers print them. Their values contain 4711 or `secret`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const TWO: &str = include_str!("mariadb_two.txt");
const GAP: &str = include_str!("mariadb_gap.txt");
const THREE: &str = include_str!("mariadb_three.txt");
/// With `innodb_deadlock_report = basic`, which omits the blocking locks.
const BASIC: &str = include_str!("mariadb_three_basic.txt");
const MYSQL: &str = include_str!("mysql_8.txt");
/// Does not list the holder of the lock that the second transaction waits for.
const AUTO_INCREMENT: &str = include_str!("mysql_5_7_auto_increment.txt");

/// Printed by MariaDB 10.11.14 of Debian 12. The last line names session 6, but session 7 was the victim.
const WRONG_VICTIM: &str = include_str!("mariadb_10_11_14.txt");

/// All reports, each with the session of the victim, which is the querying one.
const ALL: [(&str, i64); 7] =
    [(TWO, 48), (GAP, 54), (THREE, 68), (BASIC, 61), (MYSQL, 9), (AUTO_INCREMENT, 21), (WRONG_VICTIM, 7)];

/// Reads the report for a session, given the statement that failed.
fn report_for_statement(
    failed: Option<&str>,
    session: i64,
    since: &str,
    status: &str,
) -> Option<DeadlockReport> {
    let asking = format!("deadlock of session {session} after none since {since}");
    report(&[asking, status.to_owned()], failed).map(|(report, _)| report)
}

fn report_for(session: i64, since: &str, status: &str) -> Option<DeadlockReport> {
    report_for_statement(None, session, since, status)
}

fn parties_for(session: i64, status: &str) -> Vec<DeadlockParty> {
    report_for(session, "2026-03-02 10:20:29", status).expect("a report").parties
}

fn party(session: i64, blocked_by: i64, waits_for: WantedLock, statement: &str) -> DeadlockParty {
    DeadlockParty {
        session: Some(session),
        unit: None,
        waits_for: Some(waits_for),
        blocked_by: vec![blocked_by],
        statements: vec![statement.to_owned()],
    }
}

fn on_row(mode: &str, index: &str, row: &str) -> WantedLock {
    WantedLock {
        mode: mode.to_owned(),
        on: String::from("RECORD LOCKS"),
        relation: Some(String::from("product")),
        index: Some(index.to_owned()),
        row: Some(row.to_owned()),
    }
}

const X: &str = "X locks rec but not gap";

/// One of the statements contains a string that looks like the heading of a transaction.
#[test]
fn a_deadlock_on_two_rows_is_read() {
    let wanted = [
        party(48, 49, on_row(X, "PRIMARY", "page 3 heap 2"), "update product set name=?, stock=? where id=?"),
        party(
            49,
            48,
            on_row(X, "PRIMARY", "page 3 heap 3"),
            "update product set name=?, stock = -? where id=?",
        ),
    ];
    assert_eq!(parties_for(48, TWO), wanted);
}

/// The server lists each transaction's own lock as well.
#[test]
fn a_deadlock_on_a_gap_is_read() {
    let lock = || on_row("X insert intention", "PRIMARY", "page 3 heap 1");
    let insert = "insert into product values (?,?,?)";
    assert_eq!(parties_for(54, GAP), [party(54, 53, lock(), insert), party(53, 54, lock(), insert)]);
}

/// The locks are on the same page, so the blocking one is found by its record.
#[test]
fn a_deadlock_of_three_transactions_is_read() {
    for (status, [victim, next, last]) in [(THREE, [68, 67, 66]), (BASIC, [61, 59, 60])] {
        let parties = parties_for(victim, status);
        let waits: Vec<_> = parties.iter().map(|party| (party.session, &*party.blocked_by)).collect();
        let wanted = [(Some(victim), &[next][..]), (Some(next), &[last]), (Some(last), &[victim])];
        assert_eq!(waits, wanted);
        let rows: Vec<_> = parties.into_iter().filter_map(|party| party.waits_for?.row).collect();
        assert_eq!(rows, ["page 3 heap 2", "page 3 heap 3", "page 3 heap 4"]);
    }
}

#[test]
fn a_deadlock_of_mysql_is_read() {
    let wanted = [
        party(9, 8, on_row(X, "PRIMARY", "page 4 heap 2"), "UPDATE product SET name = ?\n WHERE id = ?"),
        party(8, 9, on_row(X, "PRIMARY", "page 4 heap 3"), "UPDATE product SET name = ? WHERE id = ?"),
    ];
    assert_eq!(parties_for(9, MYSQL), wanted);
}

#[test]
fn a_deadlock_on_a_table_is_read() {
    let table = WantedLock {
        mode: String::from("AUTO-INC"),
        on: String::from("TABLE LOCK"),
        relation: Some(String::from("product")),
        ..WantedLock::default()
    };
    let row =
        WantedLock { relation: Some(String::from("category")), ..on_row("S", "by_name", "page 4 heap 7") };
    let other = DeadlockParty { session: Some(22), waits_for: Some(row), ..DeadlockParty::default() };
    let wanted = [party(21, 22, table, "INSERT INTO product (name) VALUES (?)"), other];
    assert_eq!(parties_for(21, AUTO_INCREMENT), wanted);
}

#[test]
fn the_session_that_received_the_error_is_the_victim_even_if_the_status_names_another() {
    let status = WRONG_VICTIM;
    let wanted = [
        party(7, 6, on_row(X, "PRIMARY", "page 3 heap 2"), "update product set n=n+? where id=?"),
        party(6, 7, on_row(X, "PRIMARY", "page 3 heap 3"), "update product set n=n+? where id=?"),
    ];
    assert_eq!(parties_for(7, status), wanted);
    let failed = Some("update product set n=n+? where id=?");
    assert!(report_for_statement(failed, 7, "2026-11-28 00:46:21", status).is_some());
}

/// A session can be part of a reported deadlock, and later fail in one that InnoDB does not report.
#[test]
fn a_deadlock_of_another_statement_is_not_reported() {
    let matches =
        |failed: &str| report_for_statement(Some(failed), 9, "2026-03-02 10:20:29", MYSQL).is_some();
    assert!(matches("UPDATE product SET name = ?\n WHERE id = ?"));
    assert!(matches("UPDATE product SET name = 'other'\n WHERE id = 7"));
    assert!(matches("CALL rename_all()"), "the server prints the statement of the procedure");
    assert!(!matches("SELECT GET_LOCK('a', 1)"));
    assert!(!matches("UPDATE product SET stock = ? WHERE id = ?"));
}

#[test]
fn statements_match_with_values_in_place_of_parameters() {
    for (reported, sent, matches) in [
        ("UPDATE t SET a = -?, b = NULL WHERE id = ?", "UPDATE t SET a = ?, b = ? WHERE id = ?", true),
        ("INSERT INTO t VALUES (?, ?)", "INSERT INTO t VALUES (?, ?) /* 'a' */", true),
        ("UPDATE t SET a = ?", "UPDATE t SET a = ? WHERE id = ?", true),
        ("UPDATE t SET a = ?…", "UPDATE t SET a = ? WHERE id = ?", true),
        ("", "UPDATE t SET a = ?", true),
        ("UPDATE t SET a = ? WHERE id = ?", "UPDATE u SET a = ? WHERE id = ?", false),
        ("SELECT a FROM t WHERE id = ? FOR UPDATE", "UPDATE t SET a = ? WHERE id = ?", false),
    ] {
        assert_eq!(is_the_statement(reported, sent), matches, "{reported} / {sent}");
    }
}

#[test]
fn values_are_removed() {
    for (status, session) in ALL {
        assert!(status.contains("4711") || status.contains("secret"));
        let shown = format!("{:?}", parties_for(session, status));
        assert!(!shown.contains("4711") && !shown.contains("secret"), "{shown}");
    }
}

#[test]
fn a_deadlock_of_other_sessions_is_not_reported() {
    for (status, _) in ALL {
        let parties = transactions(deadlock_section(status).expect("a section")).expect("transactions");
        let takes_part = |session: i64| parties.iter().any(|party| party.session == Some(session));
        for session in (0..100).filter(|session| !takes_part(*session)) {
            assert_eq!(report_for(session, "2026-03-02 10:20:29", status), None, "{session}");
        }
    }
}

#[test]
fn a_deadlock_of_an_earlier_transaction_is_not_reported() {
    assert!(report_for(9, "2026-03-02 10:20:30", MYSQL).is_some());
    assert_eq!(report_for(9, "2026-03-02 10:20:31", MYSQL), None);
    assert_eq!(report_for(9, "2026-03-02 10:20:29", &MYSQL.replace("2026-03-02", "260302")), None);
}

#[test]
fn a_deadlock_is_reported_once() {
    let asking =
        |last_read: &str| format!("deadlock of session 9 after {last_read} since 2026-03-02 10:20:29");
    let (found, remember) = report(&[asking("1797"), MYSQL.to_owned()], None).expect("another one");
    assert_eq!(
        (found.parties, remember.as_str()),
        (parties_for(9, MYSQL), "SET @atomically_deadlock = '1812'")
    );
    assert_eq!(report(&[asking("1812"), MYSQL.to_owned()], None), None);
}

/// MDEV-29187
#[test]
fn the_session_that_asks_is_the_victim_if_none_is_named() {
    let unnamed = MYSQL.replace("ROLL BACK TRANSACTION (2)", "ROLL BACK TRANSACTION (0)");
    assert_eq!(parties_for(9, &unnamed), parties_for(9, MYSQL));
    assert_eq!(report_for(7, "2026-03-02 10:20:29", &unnamed), None);
}

/// Servers truncate statements after a few thousand bytes.
#[test]
fn a_truncated_statement_is_read() {
    let cut = format!("name = 'secret{}", "x".repeat(2000));
    let status = MYSQL.replace("name = 'secret' WHERE id = 2", &cut);
    assert_eq!(parties_for(9, &status)[1].statements, ["UPDATE product SET name = ?"]);
}

#[test]
fn a_report_that_cannot_be_parsed_is_not_reported() {
    assert_eq!(report(&[], None), None);
    assert_eq!(report(&[MYSQL.to_owned()], None), None);
    assert_eq!(report_for(9, "2026-03-02 10:20:29", "no deadlock yet"), None);
    for (text, other) in [
        ("*** (1) TRANSACTION:", "*** (2) TRANSACTION:"),
        ("*** (1) TRANSACTION:", "*** TRANSACTION:"),
        ("TRANSACTION 1811,", "BRANCH 1811,"),
        ("TRANSACTION 1812,", "TRANSACTION '1812',"),
        ("*** WE ROLL BACK TRANSACTION (2)", "*** WE ROLL BACK TRANSACTION 2"),
        ("MySQL thread id 9,", "MySQL thread id nine,"),
        ("*** (2) HOLDS THE LOCK(S):", "*** (2) HAS:"),
    ] {
        let status = MYSQL.replace(text, other);
        assert_ne!(status, MYSQL);
        assert_eq!(report_for(9, "2026-03-02 10:20:29", &status), None, "{other}");
    }
}

proptest! {
    #[test]
    fn a_truncated_report_is_not_reported(which in 0..ALL.len(), part in 0.0..1.0) {
        let (status, session) = ALL[which];
        let section = &status[..status.find("*** WE ROLL BACK").expect("the last line")];
        let mut end = (section.len() as f64 * part) as usize;
        while !section.is_char_boundary(end) {
            end -= 1;
        }
        prop_assert_eq!(report_for(session, "2026-03-02 10:20:29", &section[..end]), None);
    }

    /// Values are in lines that begin differently, so removing a line must not expose one.
    #[test]
    fn values_are_removed_if_lines_are_missing(which in 0..ALL.len(), missing in vec(any::<Index>(), 1..6)) {
        let (status, session) = ALL[which];
        let mut lines: Vec<_> = status.lines().collect();
        for index in missing {
            let removable: Vec<_> = (0..lines.len())
                .filter(|line| {
                    lines[*line].starts_with(|first: char| first == '*' || first.is_ascii_uppercase())
                })
                .collect();
            lines.remove(removable[index.index(removable.len())]);
        }
        let shown = format!("{:?}", report_for(session, "2026-03-02 10:20:29", &lines.join("\n")));
        prop_assert!(!shown.contains("4711") && !shown.contains("secret"), "{}", shown);
    }
}
