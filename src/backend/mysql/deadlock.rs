//! Who waited for whom, as InnoDB's status tells of the latest deadlock.

use std::time::Duration;

use crate::backend::LatestDeadlock;
use crate::deadlock::{DeadlockParty, DeadlockReport, WantedLock};

use super::innodb_status::{self, ReportedLock};
use super::literals::masked;
use crate::backend::whole_seconds;

/// What the answer of the session that asks begins with.
const ASKING: &str = "deadlock of session ";

/// Asks for the status, and for what tells whether it is about the deadlock that is asked for.
///
/// InnoDB prints the time of the system, whatever the session's time zone is. A variable that was never set
/// is binary, and so would be the answer.
pub(super) fn latest_deadlock(age: Duration) -> LatestDeadlock {
    let sql = format!(
        "SELECT CONVERT(CONCAT('{ASKING}', CONNECTION_ID(), ' after ', IFNULL(@atomically_deadlock, 'none'), ' since ', \
         DATE_FORMAT(CONVERT_TZ(UTC_TIMESTAMP() - INTERVAL {} SECOND, '+00:00', 'SYSTEM'), '%Y-%m-%d %H:%i:%s')) \
         USING utf8mb4); SHOW ENGINE INNODB STATUS",
        whole_seconds(age)
    );
    LatestDeadlock { sql, read: report }
}

/// The status shows a deadlock until there is another one, and not everything that is called a deadlock is
/// shown there (a conflict of Galera's, a cycle of user or metadata locks, any at all where
/// `innodb_deadlock_report` is off). So it is believed only if the session that asks is a part of it and
/// waited there with the statement that failed, no earlier than the time that was named; and once only,
/// because the times are in seconds, and the next attempt comes sooner.
///
/// # Why not by the transaction that the last line names?
///
/// It is the wrong one on MariaDB 10.11.14, and 0 on other versions (MDEV-29187). The session knows that it
/// was given up.
fn report(answers: &[String], failed: Option<&str>) -> Option<(DeadlockReport, String)> {
    let asking = answers.iter().find_map(|answer| answer.strip_prefix(ASKING))?;
    let (session, asking) = asking.split_once(" after ")?;
    let (told, since) = asking.split_once(" since ")?;
    let session: i64 = session.parse().ok()?;
    let section = answers.iter().find_map(|answer| latest(answer))?;
    let transactions = transactions(section).filter(|_| is_recent(section, since))?;
    let own = transactions.iter().position(|transaction| transaction.session == Some(session))?;
    let ReportedTransaction { number, statement, .. } = &transactions[own];
    if *number == told || failed.is_some_and(|failed| !is_the_statement(statement, failed)) {
        return None;
    }
    let mut parties: Vec<_> = (0..transactions.len()).map(|number| party(&transactions, number)).collect();
    parties.rotate_left(own);
    Some((DeadlockReport { parties }, format!("SET @atomically_deadlock = '{number}'")))
}

/// Whether a statement that the server shows, without its values, is this one that was sent.
///
/// The server shows values in place of parameters, may cut the text off, and shows the statement of a
/// procedure in place of its call.
fn is_the_statement(shown: &str, sent: &str) -> bool {
    let sent = masked(sent).sql;
    if shown.is_empty() || ["CALL", "EXECUTE"].iter().any(|word| begins_with_word(&sent, word)) {
        return true;
    }
    let mut rest = shown;
    for piece in sent.split('?') {
        match rest.find(piece.trim()) {
            Some(at) if rest.len() < shown.len() || at == 0 => rest = &rest[at + piece.trim().len()..],
            // Cut off within this piece.
            _ => return rest.trim_start_matches(['?', '-', ' ']).len() < piece.trim().len(),
        }
    }
    true
}

fn begins_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// It begins like `2026-11-21 07:58:55 0x7fcf7a6d66c0`.
fn is_recent(section: &str, since: &str) -> bool {
    let shape = |time: &str| time.replace(|char: char| char.is_ascii_digit(), "0");
    section.get(..since.len()).is_some_and(|time| shape(time) == shape(since) && time >= since)
}

/// The section, without its heading.
fn latest(status: &str) -> Option<&str> {
    let (_, rest) = status.split_once("\nLATEST DETECTED DEADLOCK\n---")?;
    rest.split_once('\n').map(|(_, section)| section)
}

/// What a line is the heading of.
enum Heading {
    ReportedTransaction(usize),
    Waits,
    /// `HOLDS THE LOCK(S)` of MySQL shows those of the transaction above, `CONFLICTING WITH` of MariaDB those
    /// of others.
    Locks,
    /// The last line. It names a transaction, and not always the one that was given up.
    End,
}

/// Numbered everywhere by MySQL and by old versions of MariaDB.
fn heading(line: &str) -> Option<Heading> {
    let words = line.strip_prefix("*** ")?;
    if let Some(victim) = words.strip_prefix("WE ROLL BACK TRANSACTION ") {
        return numbered(victim).map(|_| Heading::End);
    }
    let (number, words) = numbered(words).map_or((None, words), |(number, words)| (Some(number), words));
    match (words.trim(), number) {
        ("TRANSACTION:", Some(number)) => Some(Heading::ReportedTransaction(number)),
        ("WAITING FOR THIS LOCK TO BE GRANTED:", _) => Some(Heading::Waits),
        ("HOLDS THE LOCK(S):" | "CONFLICTING WITH:", _) => Some(Heading::Locks),
        _ => None,
    }
}

/// `(2)`, and what comes behind it.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.strip_prefix('(')?.split_once(')')?;
    Some((number.parse().ok()?, rest))
}

/// The lines below a heading.
struct Block<'a> {
    heading: Heading,
    lines: Vec<&'a str>,
}

impl Block<'_> {
    /// Below the line with the session.
    fn statement(&self) -> String {
        let lines = self.lines.iter().skip_while(|line| innodb_status::session(line).is_none());
        lines.skip(1).copied().collect::<Vec<_>>().join("\n")
    }

    /// Whether the statement goes on behind a line that looks like a heading: such a line can be part of a
    /// string.
    fn goes_on(&self) -> bool {
        /// What servers cut off is longer than this.
        const SHORTEST_CUT: usize = 900;
        let statement = self.statement();
        matches!(self.heading, Heading::ReportedTransaction(_))
            && statement.len() < SHORTEST_CUT
            && masked(&statement).is_open
    }
}

/// A transaction of the cycle.
struct ReportedTransaction<'a> {
    /// InnoDB's number.
    number: &'a str,
    session: Option<i64>,
    statement: String,
    waits_for: Option<RecordPlace<'a>>,
    /// Its own, or those in its way.
    locks: Vec<RecordPlace<'a>>,
}

/// A lock, and the records of its page that it is on.
struct RecordPlace<'a> {
    lock: ReportedLock<'a>,
    records: Vec<&'a str>,
}

/// The transactions. `None` where the section is not all there.
fn transactions(section: &str) -> Option<Vec<ReportedTransaction<'_>>> {
    let mut transactions: Vec<ReportedTransaction<'_>> = Vec::new();
    for block in blocks(section) {
        match (&block.heading, transactions.last_mut()) {
            (Heading::End, _) => return Some(transactions),
            (Heading::ReportedTransaction(number), _) => {
                let statement = masked(&block.statement()).sql;
                if *number != transactions.len() + 1 || statement.lines().any(is_of_something_else) {
                    return None;
                }
                let number = block.lines.first()?.strip_prefix("TRANSACTION ")?.split(',').next()?;
                transactions.push(ReportedTransaction {
                    number: Some(number)
                        .filter(|number| number.chars().all(|char| char.is_ascii_alphanumeric()))?,
                    session: block.lines.iter().find_map(|line| innodb_status::session(line)),
                    statement,
                    waits_for: None,
                    locks: Vec::new(),
                });
            }
            (Heading::Waits, Some(transaction)) => transaction.waits_for = places(&block.lines).pop(),
            (Heading::Locks, Some(transaction)) => transaction.locks.extend(places(&block.lines)),
            (Heading::Waits | Heading::Locks, None) => return None,
        }
    }
    None
}

/// The statement has ended above, and it was not seen: below are records with their values.
fn is_of_something_else(line: &str) -> bool {
    let known = ["*** ", "RECORD LOCKS ", "TABLE LOCK ", "Record lock, ", "?: len "];
    known.iter().any(|start| line.trim_start().starts_with(start))
}

fn blocks(section: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in section.lines() {
        let heading = heading(line).filter(|_| !blocks.last().is_some_and(Block::goes_on));
        match (heading, blocks.last_mut()) {
            (Some(heading), _) => blocks.push(Block { heading, lines: Vec::new() }),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    blocks
}

/// Each lock is followed by its records, and these by their values, of which nothing is read.
fn places<'a>(lines: &[&'a str]) -> Vec<RecordPlace<'a>> {
    let mut places: Vec<RecordPlace<'a>> = Vec::new();
    for line in lines {
        if let Some(lock) = innodb_status::lock(line) {
            places.push(RecordPlace { lock, records: Vec::new() });
        } else if let Some(place) = places.last_mut() {
            let record = line.strip_prefix("Record lock, heap no ").and_then(|rest| rest.split(' ').next());
            place.records.extend(record);
        }
    }
    places
}

fn party(transactions: &[ReportedTransaction<'_>], number: usize) -> DeadlockParty {
    let transaction = &transactions[number];
    let statement = Some(transaction.statement.clone()).filter(|statement| !statement.is_empty());
    DeadlockParty {
        session: transaction.session,
        waits_for: transaction.waits_for.as_ref().map(wanted),
        blocked_by: blocked_by(transactions, number),
        statements: statement.into_iter().collect(),
        ..DeadlockParty::default()
    }
}

fn wanted(place: &RecordPlace<'_>) -> WantedLock {
    let lock = &place.lock;
    let row = lock.page.zip(place.records.first());
    WantedLock {
        mode: lock.mode.to_owned(),
        on: lock.on.to_owned(),
        relation: Some(lock.table.clone()),
        index: lock.index.map(str::to_owned),
        row: row.map(|((_, page), record)| format!("page {page} heap {record}")),
    }
}

/// The sessions with a lock where this one waits. They are listed in the order of the cycle, each waiting for
/// the next one; that has to do where the locks in the way are not shown (`innodb_deadlock_report = basic`).
fn blocked_by(transactions: &[ReportedTransaction<'_>], number: usize) -> Vec<i64> {
    let mut locks = transactions.iter().flat_map(|transaction| &transaction.locks).peekable();
    if locks.peek().is_none() {
        return transactions[(number + 1) % transactions.len()].session.into_iter().collect();
    }
    let Some(wait) = &transactions[number].waits_for else { return Vec::new() };
    let holders: Vec<_> =
        locks.filter(|lock| lock.is_where(wait)).map(|lock| lock.lock.transaction).collect();
    let others = transactions.iter().enumerate().filter(|(other, _)| *other != number);
    others
        .filter(|(_, other)| holders.contains(&other.number))
        .filter_map(|(_, other)| other.session)
        .collect()
}

impl RecordPlace<'_> {
    fn is_where(&self, wait: &Self) -> bool {
        self.lock.is_where(&wait.lock) && wait.records.iter().all(|record| self.records.contains(record))
    }
}

#[cfg(test)]
mod tests;
