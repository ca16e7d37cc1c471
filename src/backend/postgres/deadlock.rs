//! Reads a deadlock from PostgreSQL's error.

use crate::backend::messages::between;
use crate::deadlock::{DeadlockParty, DeadlockReport, WantedLock};

/// Reads the report from the error's detail, which has a line for each process, and its context, which
/// describes what the failed statement was doing.
///
/// The first line is about the victim: the session that reports the error is the victim, and its search for a
/// cycle starts at its own process ([`DeadLockReport`][report], and `FindLockCycleRecurse` there).
///
/// The texts are in the language of `lc_messages`. In each translation, a line begins with the process that
/// waits and ends with the process that blocks it. The lock is read from English texts only.
///
/// [report]: https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/storage/lmgr/deadlock.c
pub(super) fn report(detail: Option<&str>, context: Option<&str>) -> Option<DeadlockReport> {
    let waits: Vec<_> = detail?.lines().map(wait).collect::<Option<_>>()?;
    let blocked_by_the_next =
        waits.iter().zip(waits.iter().cycle().skip(1)).all(|(one, next)| one.1 == next.0);
    if waits.len() < 2 || !blocked_by_the_next {
        return None;
    }
    let mut parties: Vec<_> = waits
        .into_iter()
        .map(|(session, blocker, waits_for)| DeadlockParty {
            session: Some(session),
            waits_for,
            blocked_by: vec![blocker],
            ..DeadlockParty::default()
        })
        .collect();
    if let (Some(lock), Some(context)) = (parties.first_mut()?.waits_for.as_mut(), context) {
        add_row(lock, context);
    }
    Some(DeadlockReport { parties })
}

/// Parses `Process 123 waits for ShareLock on transaction 741; blocked by process 456.`
fn wait(line: &str) -> Option<(i64, i64, Option<WantedLock>)> {
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let session = numbers.next()?.parse().ok()?;
    let blocker = numbers.next_back()?.parse().ok()?;
    let lock = between(line, " waits for ", "; blocked by process ").and_then(|lock| lock.split_once(" on "));
    let lock = lock.map(|(mode, on)| WantedLock {
        mode: mode.to_owned(),
        on: on.to_owned(),
        // The table is given by its OID only.
        row: on.strip_prefix("tuple ").and_then(tuple),
        ..WantedLock::default()
    });
    Some((session, blocker, lock))
}

/// Adds the table and the row of `while updating tuple (0,1) in relation "account"`, the innermost line of
/// the context.
///
/// A session that waits for another session to insert the same key reports the index instead of the table
/// ([`_bt_doinsert`][insert]) or, with `ON CONFLICT`, the table
/// ([`check_exclusion_or_unique_constraint`][check]). Its tuple is the new one, which is not a row yet.
///
/// [insert]: https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/access/nbtree/nbtinsert.c
/// [check]: https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/executor/execIndexing.c
fn add_row(lock: &mut WantedLock, context: &str) {
    let innermost = context.lines().next().and_then(|line| line.strip_prefix("while "));
    let Some((what, relation)) = innermost.and_then(|line| line.split_once(" in relation \"")) else {
        return;
    };
    let Some(relation) = relation.strip_suffix('"') else { return };
    let row = what.find('(').and_then(|start| tuple(&what[start..]));
    if row.is_none() || !what.contains("tuple") {
        return;
    }
    lock.relation = Some(relation.to_owned());
    if !what.starts_with("inserting index tuple") {
        lock.row = row;
    }
}

/// Parses `(0,1)` at the beginning of a text.
fn tuple(text: &str) -> Option<String> {
    let inside = between(text, "(", ")").filter(|_| text.starts_with('('))?;
    let (block, offset) = inside.split_once(',')?;
    let numbers = [block, offset].map(|number| number.parse::<u32>().is_ok());
    (numbers == [true, true]).then(|| format!("({inside})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(session: i64, blocker: i64, lock: Option<WantedLock>) -> DeadlockParty {
        DeadlockParty {
            session: Some(session),
            waits_for: lock,
            blocked_by: vec![blocker],
            ..DeadlockParty::default()
        }
    }

    fn lock(mode: &str, on: &str) -> WantedLock {
        WantedLock { mode: mode.to_owned(), on: on.to_owned(), ..WantedLock::default() }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    const TWO: &str = "Process 123 waits for ShareLock on transaction 741; blocked by process 456.\n\
                       Process 456 waits for ShareLock on transaction 740; blocked by process 123.";

    #[test]
    fn the_victim_is_first_and_has_its_row() {
        let context = "while updating tuple (0,1) in relation \"account\"\n\
                       SQL statement \"UPDATE account SET balance = 4711 WHERE id = (0,2)\"\n\
                       PL/pgSQL function transfer(bigint) line 3 at SQL statement";
        let report = report(Some(TWO), Some(context)).expect("a report");
        let row = WantedLock {
            relation: some("account"),
            row: some("(0,1)"),
            ..lock("ShareLock", "transaction 741")
        };
        let others = lock("ShareLock", "transaction 740");
        assert_eq!(report.parties, [party(123, 456, Some(row)), party(456, 123, Some(others))]);
        assert!(!format!("{report:?}").contains("4711"));
    }

    #[test]
    fn every_kind_of_lock_keeps_the_servers_words() {
        for (mode, on, row) in [
            ("ExclusiveLock", "tuple (0,17) of relation 16385 of database 5", Some("(0,17)")),
            ("AccessExclusiveLock", "relation 16385 of database 5", None),
            ("ExclusiveLock", "advisory lock [5,1,2,1]", None),
            ("ShareLock", "virtual transaction 3/45", None),
            ("ShareLock", "speculative token 1 of transaction 741", None),
            ("ExclusiveLock", "extension of relation 16385 of database 5", None),
            ("ExclusiveLock", "page 3 of relation 16385 of database 5", None),
            ("AccessShareLock", "object 1 of class 2 of database 5", None),
            ("ExclusiveLock", "user lock [1,2,3]", None),
            ("ShareLock", "unrecognized locktag type 99", None),
        ] {
            let detail = format!(
                "Process 1 waits for {mode} on {on}; blocked by process 2.\n\
                 Process 2 waits for {mode} on {on}; blocked by process 1."
            );
            let wanted = WantedLock { row: row.map(str::to_owned), ..lock(mode, on) };
            let report = report(Some(&detail), None).expect("a report");
            assert_eq!(
                report.parties,
                [party(1, 2, Some(wanted.clone())), party(2, 1, Some(wanted))],
                "{on}"
            );
        }
    }

    #[test]
    fn cycles_of_three_are_read() {
        let detail = "Process 1 waits for ShareLock on transaction 12; blocked by process 2.\n\
                      Process 2 waits for ShareLock on transaction 13; blocked by process 3.\n\
                      Process 3 waits for ShareLock on transaction 11; blocked by process 1.";
        let report = report(Some(detail), None).expect("a report");
        let waits: Vec<_> = report.parties.iter().map(|party| (party.session, &*party.blocked_by)).collect();
        assert_eq!(waits, [(Some(1), &[2][..]), (Some(2), &[3]), (Some(3), &[1])]);
    }

    fn relation_and_row(context: &str) -> (Option<String>, Option<String>) {
        let report = report(Some(TWO), Some(context)).expect("a report");
        let lock = report.parties[0].waits_for.clone().expect("a lock");
        (lock.relation, lock.row)
    }

    #[test]
    fn the_context_gives_the_table_and_the_row() {
        for what in [
            "updating tuple (7,12)",
            "deleting tuple (7,12)",
            "locking tuple (7,12)",
            "locking updated version (7,12) of tuple",
            "checking uniqueness of tuple (7,12)",
            "rechecking updated tuple (7,12)",
            "checking exclusion constraint on tuple (7,12)",
        ] {
            let context = format!("while {what} in relation \"my \"account\"\"");
            assert_eq!(relation_and_row(&context), (some("my \"account\""), some("(7,12)")), "{what}");
        }
        let index = "while inserting index tuple (0,5) in relation \"account_pkey\"";
        assert_eq!(relation_and_row(index), (some("account_pkey"), None));
        for nothing in [
            "",
            "while updating tuple (0,1) in relation \"acc\nount\"",
            "while scanning block 3 of relation \"public.account\"",
            "SQL statement \"SELECT 1\"\nwhile updating tuple (0,1) in relation \"account\"",
            "while something tuple (0,x) in relation \"account\"",
            "while something else in relation \"account\"",
        ] {
            assert_eq!(relation_and_row(nothing), (None, None), "{nothing}");
        }
    }

    /// The translations of PostgreSQL 15 that use ASCII digits.
    #[test]
    fn translated_reports_have_the_sessions() {
        for (detail, context) in [
            (
                "Prozess 123 wartet auf ShareLock-Sperre auf Transaktion 741; blockiert von Prozess 456.\n\
                 Prozess 456 wartet auf ShareLock-Sperre auf Transaktion 740; blockiert von Prozess 123.",
                "beim Aktualisieren von Tupel (0,1) in Relation »account«",
            ),
            (
                "Le processus 123 attend ShareLock sur transaction 741 ; bloqué par le processus 456.\n\
                 Le processus 456 attend ShareLock sur transaction 740 ; bloqué par le processus 123.",
                "lors de la mise à jour de la ligne (0,1) dans la relation « account »",
            ),
            (
                "プロセス 123 は ShareLock を トランザクション 741 で待機していましたが、\
                 プロセス 456 でブロックされました\n\
                 プロセス 456 は ShareLock を トランザクション 740 で待機していましたが、プロセス 123 でブロックされました",
                "リレーション\"account\"のタプル(0,1)の更新中",
            ),
            (
                "进程123等待在事务 741上的ShareLock; 由进程456阻塞.\n进程456等待在事务 740上的ShareLock; 由进程123阻塞.",
                "当更新关系\"account\"的元组(0, 1)时",
            ),
            (
                "123 프로세스가 ShareLock 상태로 지연되고 있음(해당 작업: 트랜잭션 741); 456 프로세스에 의해 블록킹되었음\n\
                 456 프로세스가 ShareLock 상태로 지연되고 있음(해당 작업: 트랜잭션 740); 123 프로세스에 의해 블록킹되었음",
                "0,1 튜플(해당 릴레이션 \"account\")을 갱신하는 중에 발생",
            ),
        ] {
            let report = report(Some(detail), Some(context)).expect("a report");
            assert_eq!(report.parties, [party(123, 456, None), party(456, 123, None)], "{detail}");
        }
    }

    /// Waits that form no cycle were misread.
    #[test]
    fn text_without_a_cycle_is_no_report() {
        for detail in [
            "",
            "Process 123 waits for ShareLock on transaction 741; blocked by process 456.",
            "Process 1 waits for ShareLock on transaction 741; blocked by process 2.\n\
             Process 3 waits for ShareLock on transaction 740; blocked by process 1.",
            "Process 1 waits for ShareLock on transaction 741; blocked by process 2.\nand so on",
            "Process 1 waits; blocked by process 2.\n\
             Process 99999999999999999999 waits; blocked by process 1.",
        ] {
            assert_eq!(report(Some(detail), None), None, "{detail}");
        }
        assert_eq!(report(None, Some("while updating tuple (0,1) in relation \"account\"")), None);
    }

    #[test]
    fn a_truncated_text_is_no_report() {
        let context = "while locking updated version (0,1) of tuple in relation \"account\"";
        for end in 0..TWO.len() {
            let cut = report(TWO.get(..end), Some(context));
            assert!(cut.is_none() || end > TWO.len() - 5, "{:?}", &TWO[..end]);
        }
        for end in (0..context.len()).filter(|end| context.is_char_boundary(*end)) {
            assert_eq!(relation_and_row(&context[..end]), (None, None));
        }
    }
}
