//! Reads the latest deadlock from InnoDB's status.

use std::time::Duration;

use super::innodb_status::{self, ReportedLock};
use super::mask::masked;
use crate::backend::errors::DeadlockQuery;
use crate::backend::limits::whole_seconds;
use crate::deadlock::{DeadlockParty, DeadlockReport, WantedLock};

/// The beginning of the row that identifies the querying session.
const SESSION_ROW: &str = "deadlock of session ";

/// Returns the query for the status and for a row with the session, the last deadlock that the session has
/// read, and the earliest time of the requested deadlock.
///
/// InnoDB prints times in the system's time zone, whatever the session's is. The conversion to `utf8mb4` is
/// needed because a variable that was never set is binary.
pub(super) fn deadlock_query(age: Duration) -> DeadlockQuery {
    let sql = format!(
        "SELECT CONVERT(CONCAT('{SESSION_ROW}', CONNECTION_ID(), ' after ', \
         IFNULL(@atomically_deadlock, 'none'), ' since ', DATE_FORMAT(CONVERT_TZ(\
         UTC_TIMESTAMP() - INTERVAL {} SECOND, '+00:00', 'SYSTEM'), '%Y-%m-%d %H:%i:%s')) \
         USING utf8mb4); SHOW ENGINE INNODB STATUS",
        whole_seconds(age)
    );
    DeadlockQuery { sql, read: report }
}

/// Reads the report if it describes the deadlock of the querying session.
///
/// The status keeps a deadlock until the next one, and omits some that are reported with the same error:
/// conflicts of Galera, cycles of user or metadata locks, and all of them if `innodb_deadlock_report` is off.
/// The report is therefore accepted only if the session takes part in the deadlock, waited in it with the
/// statement that failed, and did so no earlier than the given time. It is accepted only once, because the
/// status has times in seconds, and the next attempt may begin within the same second.
///
/// # Why is the victim not read from the last line?
///
/// The last line names the wrong transaction on MariaDB 10.11.14, and transaction 0 on other versions
/// (MDEV-29187). The session that received the error is the victim.
fn report(answers: &[String], failed: Option<&str>) -> Option<(DeadlockReport, String)> {
    let asking = answers.iter().find_map(|answer| answer.strip_prefix(SESSION_ROW))?;
    let (session, asking) = asking.split_once(" after ")?;
    let (last_read, since) = asking.split_once(" since ")?;
    let session: i64 = session.parse().ok()?;
    let section = answers.iter().find_map(|answer| deadlock_section(answer))?;
    let transactions = transactions(section).filter(|_| is_recent(section, since))?;
    let own = transactions.iter().position(|transaction| transaction.session == Some(session))?;
    let ReportedTransaction { number, statement, .. } = &transactions[own];
    if *number == last_read || failed.is_some_and(|failed| !is_the_statement(statement, failed)) {
        return None;
    }
    let mut parties: Vec<_> = (0..transactions.len()).map(|number| party(&transactions, number)).collect();
    parties.rotate_left(own);
    Some((DeadlockReport { parties }, format!("SET @atomically_deadlock = '{number}'")))
}

/// Returns whether a statement in the report, without its values, can be the one that was sent.
///
/// The server prints values in place of parameters, may truncate the text, and prints the statement of a
/// procedure instead of its call.
fn is_the_statement(reported: &str, sent: &str) -> bool {
    let sent = masked(sent).sql;
    if reported.is_empty() || ["CALL", "EXECUTE"].iter().any(|word| begins_with_word(&sent, word)) {
        return true;
    }
    let mut rest = reported;
    for piece in sent.split('?') {
        match rest.find(piece.trim()) {
            Some(at) if rest.len() < reported.len() || at == 0 => rest = &rest[at + piece.trim().len()..],
            // The reported statement is truncated within this piece.
            _ => return rest.trim_start_matches(['?', '-', ' ']).len() < piece.trim().len(),
        }
    }
    true
}

fn begins_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Whether a section, which begins like `2026-11-21 07:58:55 0x7fcf7a6d66c0`, is not older than `since`.
fn is_recent(section: &str, since: &str) -> bool {
    let shape = |time: &str| time.replace(|char: char| char.is_ascii_digit(), "0");
    section.get(..since.len()).is_some_and(|time| shape(time) == shape(since) && time >= since)
}

/// Returns the section about the latest deadlock, without its heading.
fn deadlock_section(status: &str) -> Option<&str> {
    let (_, rest) = status.split_once("\nLATEST DETECTED DEADLOCK\n---")?;
    rest.split_once('\n').map(|(_, section)| section)
}

/// A line that begins a block of the section.
enum Heading {
    ReportedTransaction(usize),
    Waits,
    /// `HOLDS THE LOCK(S)` (MySQL) lists locks of the transaction above, `CONFLICTING WITH` (MariaDB) those
    /// of other transactions.
    Locks,
    /// The last line, which names a transaction, but not always the victim.
    End,
}

/// Parses a heading. MySQL and old versions of MariaDB number all of them.
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

/// Parses `(2)`, and returns what follows it.
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
    /// Returns the statement, which follows the line with the session.
    fn statement(&self) -> String {
        let lines = self.lines.iter().skip_while(|line| innodb_status::session(line).is_none());
        lines.skip(1).copied().collect::<Vec<_>>().join("\n")
    }

    /// Whether the statement continues after a line that looks like a heading but is part of a string.
    fn is_unfinished(&self) -> bool {
        /// Servers truncate longer statements only.
        const SHORTEST_CUT: usize = 900;
        let statement = self.statement();
        matches!(self.heading, Heading::ReportedTransaction(_))
            && statement.len() < SHORTEST_CUT
            && masked(&statement).is_open
    }
}

/// A transaction of the cycle.
struct ReportedTransaction<'a> {
    /// InnoDB's number of the transaction.
    number: &'a str,
    session: Option<i64>,
    statement: String,
    waits_for: Option<LockedRecords<'a>>,
    /// The locks that the transaction holds, or those that block it.
    locks: Vec<LockedRecords<'a>>,
}

/// A lock, and the heap numbers of the records that it covers.
struct LockedRecords<'a> {
    lock: ReportedLock<'a>,
    records: Vec<&'a str>,
}

/// Parses the transactions of the section; `None` if it is not complete.
fn transactions(section: &str) -> Option<Vec<ReportedTransaction<'_>>> {
    let mut transactions: Vec<ReportedTransaction<'_>> = Vec::new();
    for block in blocks(section) {
        match (&block.heading, transactions.last_mut()) {
            (Heading::End, _) => return Some(transactions),
            (Heading::ReportedTransaction(number), _) => {
                let statement = masked(&block.statement()).sql;
                if *number != transactions.len() + 1 || statement.lines().any(is_outside_of_statement) {
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
            (Heading::Waits, Some(transaction)) => transaction.waits_for = locked_records(&block.lines).pop(),
            (Heading::Locks, Some(transaction)) => transaction.locks.extend(locked_records(&block.lines)),
            (Heading::Waits | Heading::Locks, None) => return None,
        }
    }
    None
}

/// Returns whether a line cannot be part of a statement. If a statement contains such a line, its end was
/// missed, and records with their values follow.
fn is_outside_of_statement(line: &str) -> bool {
    let prefixes = ["*** ", "RECORD LOCKS ", "TABLE LOCK ", "Record lock, ", "?: len "];
    prefixes.iter().any(|start| line.trim_start().starts_with(start))
}

fn blocks(section: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in section.lines() {
        let heading = heading(line).filter(|_| !blocks.last().is_some_and(Block::is_unfinished));
        match (heading, blocks.last_mut()) {
            (Some(heading), _) => blocks.push(Block { heading, lines: Vec::new() }),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    blocks
}

/// Parses locks, each followed by its records, whose values are skipped.
fn locked_records<'a>(lines: &[&'a str]) -> Vec<LockedRecords<'a>> {
    let mut locked: Vec<LockedRecords<'a>> = Vec::new();
    for line in lines {
        if let Some(lock) = innodb_status::lock(line) {
            locked.push(LockedRecords { lock, records: Vec::new() });
        } else if let Some(last) = locked.last_mut() {
            let record = line.strip_prefix("Record lock, heap no ").and_then(|rest| rest.split(' ').next());
            last.records.extend(record);
        }
    }
    locked
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

fn wanted(locked: &LockedRecords<'_>) -> WantedLock {
    let lock = &locked.lock;
    let row = lock.page.zip(locked.records.first());
    WantedLock {
        mode: lock.mode.to_owned(),
        on: lock.on.to_owned(),
        relation: Some(lock.table.clone()),
        index: lock.index.map(str::to_owned),
        row: row.map(|((_, page), record)| format!("page {page} heap {record}")),
    }
}

/// Returns the sessions whose locks block this one. If the report has no blocking locks
/// (`innodb_deadlock_report = basic`), returns the next session, because the transactions are listed in the
/// order of the cycle.
fn blocked_by(transactions: &[ReportedTransaction<'_>], number: usize) -> Vec<i64> {
    let mut locks = transactions.iter().flat_map(|transaction| &transaction.locks).peekable();
    if locks.peek().is_none() {
        return transactions[(number + 1) % transactions.len()].session.into_iter().collect();
    }
    let Some(wait) = &transactions[number].waits_for else { return Vec::new() };
    let holders: Vec<_> =
        locks.filter(|lock| lock.includes(wait)).map(|lock| lock.lock.transaction).collect();
    let others = transactions.iter().enumerate().filter(|(other, _)| *other != number);
    others
        .filter(|(_, other)| holders.contains(&other.number))
        .filter_map(|(_, other)| other.session)
        .collect()
}

impl LockedRecords<'_> {
    fn includes(&self, wait: &Self) -> bool {
        self.lock.is_at_same_location(&wait.lock)
            && wait.records.iter().all(|record| self.records.contains(record))
    }
}

#[cfg(test)]
mod tests;
