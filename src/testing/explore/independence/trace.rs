//! A digest of the trace that the steps of a schedule form.

use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::ops::Range;

use crate::intercept::{StatementAnswer, StepKind};

use super::super::log::{Entry, ScheduleLog, Sent};
use super::{Independence, StepPart};

/// An entry of the log, as far as the digest needs it.
struct Traced<'l> {
    description: u64,
    sent: &'l Sent,
    part: Option<StepPart<'l>>,
    /// Whether its transaction has ended and left nothing behind.
    is_forgotten: bool,
    /// Whether its answer may have depended on a transaction that left nothing behind.
    saw_forgotten: bool,
}

impl Independence {
    /// A digest of the trace of these entries, which come with the digests of their descriptions.
    ///
    /// A transaction that has ended and left nothing behind affects others by the answers only that it got
    /// and that they got meanwhile. If these are equal, the order of its steps does not matter any more.
    pub(in super::super) fn digest(&self, log: &ScheduleLog, entries: &[(usize, u64)]) -> u64 {
        let mut traced: Vec<Traced<'_>> = Vec::with_capacity(entries.len());
        for (entry, description) in entries.iter().copied() {
            let Some(sent) = log.step_of(entry) else { continue };
            let part = self.part(log, entry);
            traced.push(Traced { description, sent, part, is_forgotten: false, saw_forgotten: false });
        }
        if self.texts_tell.tables {
            self.forget(&mut traced);
        }
        let mut digests: Vec<u64> = Vec::with_capacity(entries.len());
        for (i, step) in traced.iter().enumerate() {
            let is_cause = |earlier: &Traced<'_>| {
                earlier.sent.client == step.sent.client
                    || !(earlier.is_forgotten || step.is_forgotten || self.commute(&earlier.part, &step.part))
            };
            // A sum does not depend on the order of what is added.
            let causes = traced[..i].iter().zip(&digests).filter(|(earlier, _)| is_cause(earlier));
            let causes = causes.fold(0_u64, |sum, (_, digest)| sum.wrapping_add(*digest));
            let mut digest = DefaultHasher::new();
            (step.description, causes).hash(&mut digest);
            if step.is_forgotten || step.saw_forgotten {
                step.sent.answer.as_ref().map(|answer| &answer.rows).hash(&mut digest);
            }
            digests.push(digest.finish());
        }
        digests.iter().fold(0, |sum, digest| sum.wrapping_add(*digest))
    }

    /// Marks the transactions that have left nothing behind, and the answers that may have depended on them.
    fn forget(&self, traced: &mut [Traced<'_>]) {
        for end in 0..traced.len() {
            let Some(span) = self.span_of_forgotten(traced, end) else { continue };
            let own = |step: &Traced<'_>| step.sent.step.transaction.is(&traced[end].sent.step.transaction);
            let depends = |step: &usize| {
                let is_after = |earlier: &&Traced<'_>| own(earlier);
                let mut earlier = traced[span.start..*step].iter().filter(is_after);
                earlier.any(|earlier| !self.commute(&earlier.part, &traced[*step].part))
            };
            let (own, others): (Vec<usize>, Vec<usize>) = span.clone().partition(|step| own(&traced[*step]));
            let saw: Vec<usize> = others.into_iter().filter(depends).collect();
            let is_known = |step: &usize| traced[*step].sent.answer.as_ref().is_none_or(can_be_compared);
            if saw.iter().all(is_known) {
                own.into_iter().for_each(|step| traced[step].is_forgotten = true);
                saw.into_iter().for_each(|step| traced[step].saw_forgotten = true);
            }
        }
    }

    /// The entries from the first one to the last one of a transaction that ends here and has left nothing
    /// behind: it was rolled back or has only read, it drew no values from sequences, and all its answers are
    /// known.
    fn span_of_forgotten(&self, traced: &[Traced<'_>], end: usize) -> Option<Range<usize>> {
        let last =
            traced[end].part.as_ref().filter(|part| part.waited.is_none() && part.is_read_committed)?;
        let is_rolled_back = match last.kind {
            StepKind::Rollback => true,
            StepKind::Commit => false,
            StepKind::Begin | StepKind::Statement | StepKind::Control => return None,
        };
        let transaction = &traced[end].sent.step.transaction;
        let own = |step: &&Traced<'_>| step.sent.step.transaction.is(transaction);
        let leaves_nothing = |step: &Traced<'_>| {
            let Some(part) = &step.part else { return false };
            let is_known = step.sent.answer.as_ref().is_some_and(can_be_compared);
            match part.kind {
                StepKind::Begin => part.is_bare_begin,
                StepKind::Commit | StepKind::Rollback => is_known,
                StepKind::Statement => {
                    let mut effects = part.effects.iter();
                    is_known
                        && effects.all(|effect| {
                            effect.is_known()
                                && !effect.may_draw_from(&self.texts_tell.sequences)
                                && (is_rolled_back || effect.is_read())
                        })
                }
                StepKind::Control => false,
            }
        };
        let start = traced.iter().position(|step| own(&step))?;
        traced[start..=end].iter().filter(own).all(leaves_nothing).then_some(start..end + 1)
    }
}

/// Whether the texts of an answer show all of it, and would be the same in another run of the same steps.
fn can_be_compared(answer: &StatementAnswer) -> bool {
    let is_comparable = |row: &String| !row.contains('…') && !may_differ_by_run(row);
    answer.rows.len() == answer.rows_read && answer.rows.iter().all(is_comparable)
}

/// Whether a text may contain the time or a random id: a long number, or the digits of an hour and a minute.
/// If it does, no two runs would count as equal.
fn may_differ_by_run(text: &str) -> bool {
    let has_long_number = text.split(|c: char| !c.is_ascii_hexdigit()).any(|number| number.len() >= 12);
    let is_time = |part: &[u8]| part[0].is_ascii_digit() && part[1] == b':' && part[2].is_ascii_digit();
    has_long_number || text.as_bytes().windows(3).any(is_time)
}

impl ScheduleLog {
    /// The step that an entry sends or ends the wait of.
    fn step_of(&self, entry: usize) -> Option<&Sent> {
        match self.0.get(entry)? {
            Entry::Sent(sent) => Some(sent),
            Entry::Unblocked(index) => match self.0.get(*index)? {
                Entry::Sent(sent) => Some(sent),
                Entry::Unblocked(_) => None,
            },
        }
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::sync::Arc;

    use super::super::TextsTell;
    use super::*;
    use crate::intercept::{Step, TransactionToken};
    use crate::sql_text::Syntax;

    const READ: &str = "SELECT a FROM t";
    const SKIP: &str = "SELECT a FROM t FOR UPDATE SKIP LOCKED";
    const CHANGE: &str = "UPDATE t SET a = 1 WHERE id = 1";

    /// The digest after these steps, each with its client and the rows that it read. Each client has one
    /// transaction.
    fn digest(steps: &[(usize, &str, &[&str])]) -> u64 {
        let owners = [Arc::new(()), Arc::new(())];
        let entries = steps.iter().map(|(client, sql, rows)| {
            let (client, rows): (_, Vec<String>) = (*client, rows.iter().map(ToString::to_string).collect());
            let (kind, sql) = match *sql {
                "BEGIN" => (StepKind::Begin, "BEGIN ISOLATION LEVEL READ COMMITTED"),
                "COMMIT" => (StepKind::Commit, "COMMIT"),
                "ROLLBACK" => (StepKind::Rollback, "ROLLBACK"),
                statement => (StepKind::Statement, statement),
            };
            let transaction = TransactionToken::of(&owners[client]);
            let (sql, arguments, session) = (sql.to_owned(), Some(Vec::new()), None);
            let step = Step { kind, attempt: 1, max_attempts: 1, transaction, sql, arguments, session };
            let answer = Some(StatementAnswer { rows_read: rows.len(), rows, ..StatementAnswer::default() });
            Entry::Sent(Box::new(Sent { client, step, answer, waited: None }))
        });
        let log = ScheduleLog(entries.collect());
        let describe = |(entry, (client, sql, rows)): (usize, &(usize, &str, &[&str]))| {
            let mut description = DefaultHasher::new();
            (client, sql, rows.len()).hash(&mut description);
            (entry, description.finish())
        };
        let described: Vec<_> = steps.iter().enumerate().map(describe).collect();
        let texts_tell = TextsTell { tables: true, rows: true, ..TextsTell::default() };
        Independence::new(Syntax::Postgres, texts_tell).digest(&log, &described)
    }

    /// The digests after one client has run a statement in a transaction that ends like this, and the other
    /// client a statement of its own before, within and after that transaction, which read these rows.
    fn digests(own: &str, end: &str, other: &str, seen: [&[&str]; 3]) -> [u64; 3] {
        let [before, within, after] = seen.map(|rows| (1, other, rows));
        let (begin, own, end) = ((0, "BEGIN", &[][..]), (0, own, &[][..]), (0, end, &[][..]));
        let other = (1, "BEGIN", &[][..]);
        [
            digest(&[other, before, begin, own, end]),
            digest(&[other, begin, own, within, end]),
            digest(&[other, begin, own, end, after]),
        ]
    }

    #[test]
    fn the_order_of_a_transaction_that_left_nothing_behind_does_not_matter() {
        let same = [&["a = 0"][..]; 3];
        for (own, end) in [(CHANGE, "ROLLBACK"), (SKIP, "ROLLBACK"), (SKIP, "COMMIT"), (READ, "COMMIT")] {
            for other in [READ, SKIP] {
                let [before, within, after] = digests(own, end, other, same);
                assert_eq!(before, after, "{own}; {end}; {other}");
                // What was seen meanwhile is compared as text.
                assert!(other == SKIP || within == after, "{own}; {end}");
            }
        }
    }

    #[test]
    fn the_order_of_a_transaction_that_changed_rows_matters() {
        let [before, _, after] = digests(CHANGE, "COMMIT", READ, [&["a = 0"], &["a = 0"], &["a = 1"]]);
        assert_ne!(before, after);
    }

    #[test]
    fn the_order_of_a_transaction_matters_until_its_end() {
        let (begin, change) = ((0, "BEGIN", &[][..]), (0, CHANGE, &[][..]));
        let skips = [(1, "BEGIN", &[][..]), (1, SKIP, &["a = 0"][..])];
        let first = digest(&[skips[0], skips[1], begin, change]);
        assert_ne!(first, digest(&[begin, change, skips[0], skips[1]]));
    }

    #[test]
    fn answers_that_depend_on_a_transaction_that_left_nothing_behind_are_compared() {
        let seen = |rows: [&[&str]; 3]| digests(CHANGE, "ROLLBACK", SKIP, rows)[1];
        assert_ne!(seen([&["a = 0"]; 3]), seen([&["a = 2"]; 3]));
        let read = |row| digest(&[(0, "BEGIN", &[]), (0, READ, &[row]), (0, "ROLLBACK", &[])]);
        assert_ne!(read("a = 0"), read("a = 1"));
        assert_eq!(read("a = 0"), read("a = 0"));
    }

    #[test]
    fn a_transaction_that_read_what_differs_in_each_run_keeps_its_place() {
        let at = |row| digest(&[(0, "BEGIN", &[]), (0, READ, &[row]), (0, "ROLLBACK", &[])]);
        for (one, other) in [
            ("a = 1764386150000000", "a = 1764386150000001"),
            ("a = 2026-11-29 03:15:50", "a = 2026-11-29 03:15:51"),
            ("a = 67e55044-10b1-426f-9247-bb680e5fe0c8", "a = 67e55044-10b1-426f-9247-bb680e5fe0c9"),
        ] {
            assert_eq!(at(one), at(other), "{one}");
        }
    }
}
