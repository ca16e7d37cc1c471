//! The section as servers print it. The values in it are 4711, `secret` and what holds them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const TWO: &str = include_str!("mariadb_two.txt");
const GAP: &str = include_str!("mariadb_gap.txt");
const THREE: &str = include_str!("mariadb_three.txt");
/// With `innodb_deadlock_report = basic`, which does not show whose locks are in the way.
const BASIC: &str = include_str!("mariadb_three_basic.txt");
const MYSQL: &str = include_str!("mysql_8.txt");
/// Of the second transaction, it does not show who has what it waits for.
const AUTO_INCREMENT: &str = include_str!("mysql_5_7_auto_increment.txt");

/// As MariaDB 10.11.14 of Debian 12 prints it. The last line names session 6, and session 7 was given up.
const WRONG_VICTIM: &str = include_str!("mariadb_10_11_14.txt");

/// Each with the session that was given up, which is the one that asks.
const ALL: [(&str, i64); 7] =
    [(TWO, 48), (GAP, 54), (THREE, 68), (BASIC, 61), (MYSQL, 9), (AUTO_INCREMENT, 21), (WRONG_VICTIM, 7)];

/// With the statement that has failed.
fn asked_after(failed: Option<&str>, session: i64, since: &str, status: &str) -> Option<DeadlockReport> {
    let asking = format!("deadlock of session {session} after none since {since}");
    report(&[asking, status.to_owned()], failed).map(|(report, _)| report)
}

fn asked_by(session: i64, since: &str, status: &str) -> Option<DeadlockReport> {
    asked_after(None, session, since, status)
}

fn told_to(session: i64, status: &str) -> Vec<DeadlockParty> {
    asked_by(session, "2026-03-02 10:20:29", status).expect("a report").parties
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

/// One of the two statements has a string with the heading of a transaction in it.
#[test]
fn of_two_rows() {
    let wanted = [
        party(48, 49, on_row(X, "PRIMARY", "page 3 heap 2"), "update product set name=?, stock=? where id=?"),
        party(
            49,
            48,
            on_row(X, "PRIMARY", "page 3 heap 3"),
            "update product set name=?, stock = -? where id=?",
        ),
    ];
    assert_eq!(told_to(48, TWO), wanted);
}

/// The server shows each transaction its own lock as well.
#[test]
fn of_a_gap() {
    let lock = || on_row("X insert intention", "PRIMARY", "page 3 heap 1");
    let insert = "insert into product values (?,?,?)";
    assert_eq!(told_to(54, GAP), [party(54, 53, lock(), insert), party(53, 54, lock(), insert)]);
}

/// On the same page: the records tell whose lock is in the way.
#[test]
fn of_three() {
    for (status, [victim, next, last]) in [(THREE, [68, 67, 66]), (BASIC, [61, 59, 60])] {
        let told = told_to(victim, status);
        let waits: Vec<_> = told.iter().map(|party| (party.session, &*party.blocked_by)).collect();
        let wanted = [(Some(victim), &[next][..]), (Some(next), &[last]), (Some(last), &[victim])];
        assert_eq!(waits, wanted);
        let rows: Vec<_> = told.into_iter().filter_map(|party| party.waits_for?.row).collect();
        assert_eq!(rows, ["page 3 heap 2", "page 3 heap 3", "page 3 heap 4"]);
    }
}

#[test]
fn of_mysql() {
    let wanted = [
        party(9, 8, on_row(X, "PRIMARY", "page 4 heap 2"), "UPDATE product SET name = ?\n WHERE id = ?"),
        party(8, 9, on_row(X, "PRIMARY", "page 4 heap 3"), "UPDATE product SET name = ? WHERE id = ?"),
    ];
    assert_eq!(told_to(9, MYSQL), wanted);
}

#[test]
fn of_a_table() {
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
    assert_eq!(told_to(21, AUTO_INCREMENT), wanted);
}

#[test]
fn the_session_that_got_the_error_is_reported_where_the_status_names_another_one() {
    let status = WRONG_VICTIM;
    let wanted = [
        party(7, 6, on_row(X, "PRIMARY", "page 3 heap 2"), "update product set n=n+? where id=?"),
        party(6, 7, on_row(X, "PRIMARY", "page 3 heap 3"), "update product set n=n+? where id=?"),
    ];
    assert_eq!(told_to(7, status), wanted);
    let failed = Some("update product set n=n+? where id=?");
    assert!(asked_after(failed, 7, "2026-11-28 00:46:21", status).is_some());
}

/// A session can live through a deadlock, and meet another one of which InnoDB knows nothing.
#[test]
fn another_statement_than_the_one_that_failed_is_no_match() {
    let asked = |failed: &str| asked_after(Some(failed), 9, "2026-03-02 10:20:29", MYSQL).is_some();
    assert!(asked("UPDATE product SET name = ?\n WHERE id = ?"));
    assert!(asked("UPDATE product SET name = 'other'\n WHERE id = 7"));
    assert!(asked("CALL rename_all()"), "the server shows the statement inside of it");
    assert!(!asked("SELECT GET_LOCK('a', 1)"));
    assert!(!asked("UPDATE product SET stock = ? WHERE id = ?"));
}

#[test]
fn statements_match_with_values_in_place_of_parameters() {
    for (shown, sent, matches) in [
        ("UPDATE t SET a = -?, b = NULL WHERE id = ?", "UPDATE t SET a = ?, b = ? WHERE id = ?", true),
        ("INSERT INTO t VALUES (?, ?)", "INSERT INTO t VALUES (?, ?) /* 'a' */", true),
        ("UPDATE t SET a = ?", "UPDATE t SET a = ? WHERE id = ?", true),
        ("UPDATE t SET a = ?…", "UPDATE t SET a = ? WHERE id = ?", true),
        ("", "UPDATE t SET a = ?", true),
        ("UPDATE t SET a = ? WHERE id = ?", "UPDATE u SET a = ? WHERE id = ?", false),
        ("SELECT a FROM t WHERE id = ? FOR UPDATE", "UPDATE t SET a = ? WHERE id = ?", false),
    ] {
        assert_eq!(is_the_statement(shown, sent), matches, "{shown} / {sent}");
    }
}

#[test]
fn no_value_is_told() {
    for (status, session) in ALL {
        assert!(status.contains("4711") || status.contains("secret"));
        let told = format!("{:?}", told_to(session, status));
        assert!(!told.contains("4711") && !told.contains("secret"), "{told}");
    }
}

#[test]
fn a_deadlock_of_somebody_else_is_not_told() {
    for (status, _) in ALL {
        let parties = transactions(latest(status).expect("a section")).expect("transactions");
        let takes_part = |session: i64| parties.iter().any(|party| party.session == Some(session));
        for session in (0..100).filter(|session| !takes_part(*session)) {
            assert_eq!(asked_by(session, "2026-03-02 10:20:29", status), None, "{session}");
        }
    }
}

#[test]
fn a_deadlock_of_an_earlier_transaction_is_not_told() {
    assert!(asked_by(9, "2026-03-02 10:20:30", MYSQL).is_some());
    assert_eq!(asked_by(9, "2026-03-02 10:20:31", MYSQL), None);
    assert_eq!(asked_by(9, "2026-03-02 10:20:29", &MYSQL.replace("2026-03-02", "260302")), None);
}

#[test]
fn a_deadlock_is_told_once() {
    let asking = |told: &str| format!("deadlock of session 9 after {told} since 2026-03-02 10:20:29");
    let (told, remember) = report(&[asking("1797"), MYSQL.to_owned()], None).expect("another one");
    assert_eq!((told.parties, remember.as_str()), (told_to(9, MYSQL), "SET @atomically_deadlock = '1812'"));
    assert_eq!(report(&[asking("1812"), MYSQL.to_owned()], None), None);
}

/// MDEV-29187
#[test]
fn who_asks_was_given_up_where_nobody_is_named() {
    let nobody = MYSQL.replace("ROLL BACK TRANSACTION (2)", "ROLL BACK TRANSACTION (0)");
    assert_eq!(told_to(9, &nobody), told_to(9, MYSQL));
    assert_eq!(asked_by(7, "2026-03-02 10:20:29", &nobody), None);
}

/// Servers cut a statement off at its first thousands of bytes.
#[test]
fn a_statement_may_be_cut() {
    let cut = format!("name = 'secret{}", "x".repeat(2000));
    let status = MYSQL.replace("name = 'secret' WHERE id = 2", &cut);
    assert_eq!(told_to(9, &status)[1].statements, ["UPDATE product SET name = ?"]);
}

#[test]
fn what_is_not_understood_is_not_told() {
    assert_eq!(report(&[], None), None);
    assert_eq!(report(&[MYSQL.to_owned()], None), None);
    assert_eq!(asked_by(9, "2026-03-02 10:20:29", "no deadlock yet"), None);
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
        assert_eq!(asked_by(9, "2026-03-02 10:20:29", &status), None, "{other}");
    }
}

proptest! {
    #[test]
    fn a_text_that_is_cut_is_not_told(which in 0..ALL.len(), part in 0.0..1.0) {
        let (status, session) = ALL[which];
        let section = &status[..status.find("*** WE ROLL BACK").expect("the last line")];
        let mut end = (section.len() as f64 * part) as usize;
        while !section.is_char_boundary(end) {
            end -= 1;
        }
        prop_assert_eq!(asked_by(session, "2026-03-02 10:20:29", &section[..end]), None);
    }

    /// Whatever is read then, it has no value in it. Values are in lines that begin otherwise.
    #[test]
    fn lines_may_be_missing(which in 0..ALL.len(), missing in vec(any::<Index>(), 1..6)) {
        let (status, session) = ALL[which];
        let mut lines: Vec<_> = status.lines().collect();
        for index in missing {
            let known: Vec<_> = (0..lines.len())
                .filter(|line| lines[*line].starts_with(|first: char| first == '*' || first.is_ascii_uppercase()))
                .collect();
            lines.remove(known[index.index(known.len())]);
        }
        let told = format!("{:?}", asked_by(session, "2026-03-02 10:20:29", &lines.join("\n")));
        prop_assert!(!told.contains("4711") && !told.contains("secret"), "{}", told);
    }
}
