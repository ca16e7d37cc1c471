//! Which steps of different clients cannot affect each other, so that their order does not matter.
//!
//! Two schedules that differ only in the order of such steps have the same outcome: the steps of both form
//! the same Mazurkiewicz trace. Whatever is not known to be independent counts as dependent.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use crate::intercept::{Step, StepKind};
use crate::sql_text::{SqlStatement, SqlStatements, Syntax};

use super::log::{Entry, ScheduleLog, Sent, Waited};

mod statement;

use statement::SimpleStatement;

/// A query for everything by which a statement can affect rows that its text does not show: triggers and
/// foreign keys, views and rules, row security, inheritance, and functions of users in defaults, checks and
/// indexes. A second line counts the defaults of columns.
pub(super) const POSTGRES_HIDDEN_EFFECTS: &str = "SELECT ((SELECT count(*) FROM pg_trigger) \
     + (SELECT count(*) FROM pg_policy) + (SELECT count(*) FROM pg_inherits) \
     + (SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE (c.relkind IN ('v', 'm', 'f') OR c.relhasrules) \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')) \
     + (SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace \
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')))::text; \
     SELECT ((SELECT count(*) FROM pg_attrdef) \
     + (SELECT count(*) FROM pg_attribute WHERE attidentity <> ''))::text";

/// What texts of statements tell about their effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TextsTell {
    /// Statements affect the rows only that their texts show.
    rows: bool,
    /// Statements that insert rows do not draw from a common sequence.
    inserted_values: bool,
}

impl TextsTell {
    /// From the answer to [`POSTGRES_HIDDEN_EFFECTS`].
    pub(super) fn from_counts(counts: &[String]) -> Self {
        let is_zero = |count: Option<&String>| count.is_some_and(|count| count == "0");
        Self { rows: is_zero(counts.first()), inserted_values: is_zero(counts.get(1)) }
    }
}

/// A text, and its bound values.
type BoundText = (String, Option<Vec<String>>);

/// Decides which steps are independent.
#[derive(Debug)]
pub(super) struct Independence {
    syntax: Syntax,
    texts_tell: TextsTell,
    /// What was read from texts, by text and bound values.
    statements: Mutex<HashMap<BoundText, Arc<Option<SimpleStatement>>>>,
}

/// The beginning of a step that was not refused, or the end of one that waited.
struct StepPart<'l> {
    client: usize,
    step: &'l Step,
    waited: Option<&'l Waited>,
    statement: Arc<Option<SimpleStatement>>,
    /// Whether each statement of its transaction reads what is committed at that moment.
    is_read_committed: bool,
}

impl StepPart<'_> {
    /// Whether this step waited for the client of the other one, as far as the server tells.
    fn may_wait_for(&self, other: &Self) -> bool {
        self.waited
            .is_some_and(|waited| waited.blocked_by.is_empty() || waited.blocked_by.contains(&other.client))
    }
}

impl Independence {
    pub(super) fn new(syntax: Syntax, texts_tell: TextsTell) -> Self {
        Self { syntax, texts_tell, statements: Mutex::default() }
    }

    /// A digest of the trace of these entries, which come with the digests of their descriptions.
    pub(super) fn digest(&self, log: &ScheduleLog, entries: &[(usize, u64)]) -> u64 {
        let parts: Vec<Option<StepPart<'_>>> =
            entries.iter().map(|(entry, _)| self.part(log, *entry)).collect();
        let mut digests: Vec<u64> = Vec::with_capacity(entries.len());
        for (i, (_, description)) in entries.iter().enumerate() {
            let before = (0..i).filter(|earlier| !self.commute(log, &parts[*earlier], &parts[i]));
            // A sum does not depend on the order of what is added.
            let causes = before.fold(0_u64, |sum, earlier| sum.wrapping_add(digests[earlier]));
            let mut digest = DefaultHasher::new();
            (description, causes).hash(&mut digest);
            digests.push(digest.finish());
        }
        digests.iter().fold(0, |sum, digest| sum.wrapping_add(*digest))
    }

    fn part<'l>(&self, log: &'l ScheduleLog, entry: usize) -> Option<StepPart<'l>> {
        // SQLite locks the database, and BEGIN may do so.
        if self.syntax == Syntax::Sqlite {
            return None;
        }
        let sent = match log.0.get(entry)? {
            Entry::Sent(sent) => sent,
            Entry::Unblocked(index) => match log.0.get(*index)? {
                Entry::Sent(sent) => sent,
                Entry::Unblocked(_) => return None,
            },
        };
        sent.failure().is_none().then(|| StepPart {
            client: sent.client,
            step: &sent.step,
            waited: sent.waited.as_ref(),
            statement: self.statement(&sent.step),
            is_read_committed: is_read_committed(log, sent),
        })
    }

    fn statement(&self, step: &Step) -> Arc<Option<SimpleStatement>> {
        if step.kind != StepKind::Statement {
            return Arc::default();
        }
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (step.sql.clone(), step.arguments.clone());
        let read = || {
            let arguments = step.arguments.as_deref().unwrap_or_default();
            Arc::new(SimpleStatement::of(self.syntax, &step.sql, arguments))
        };
        statements.entry(key).or_insert_with(read).clone()
    }

    /// Whether the steps lead to the same state in either order.
    fn commute(&self, log: &ScheduleLog, one: &Option<StepPart<'_>>, other: &Option<StepPart<'_>>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return false };
        if one.client == other.client || one.may_wait_for(other) || other.may_wait_for(one) {
            return false;
        }
        match (one.step.kind, other.step.kind) {
            (StepKind::Begin, _) => self.is_bare_begin(one.step) && other.step.kind != StepKind::Rollback,
            (_, StepKind::Begin) => self.is_bare_begin(other.step) && one.step.kind != StepKind::Rollback,
            (StepKind::Statement, StepKind::Statement) => {
                let (Some(first), Some(second)) = (&*one.statement, &*other.statement) else { return false };
                (first.is_plain_read && second.is_plain_read && one.waited.or(other.waited).is_none())
                    || self.tells_rows(one) && self.tells_rows(other) && self.are_disjoint(first, second)
            }
            (StepKind::Statement | StepKind::Commit, StepKind::Statement | StepKind::Commit) => {
                self.tells_rows(one) && self.tells_rows(other) && self.have_disjoint_effects(log, one, other)
            }
            _ => false,
        }
    }

    /// A snapshot is taken by the first statement, and not by BEGIN.
    fn is_bare_begin(&self, step: &Step) -> bool {
        let parsed = SqlStatements::of(self.syntax, &step.sql);
        let opens =
            |statement: &SqlStatement<'_>| statement.begins_with_any(&["BEGIN", "SET", "SHOW", "START"]);
        parsed.complete && parsed.statements.iter().all(opens)
    }

    /// A transaction with one snapshot sees what others have committed before its first statement, and a
    /// serializable one is aborted for reads that are not known.
    fn tells_rows(&self, step: &StepPart<'_>) -> bool {
        self.texts_tell.rows && step.is_read_committed
    }

    /// The statements whose effects a step has: its own, or those that it makes visible.
    fn effects(&self, log: &ScheduleLog, step: &StepPart<'_>) -> Vec<Arc<Option<SimpleStatement>>> {
        if step.step.kind == StepKind::Statement {
            return vec![step.statement.clone()];
        }
        let same = log.sent().filter(|sent| sent.step.transaction.is(&step.step.transaction));
        let changing = same.filter(|sent| !matches!(sent.step.kind, StepKind::Begin | StepKind::Commit));
        changing.map(|sent| self.statement(&sent.step)).collect()
    }

    fn have_disjoint_effects(&self, log: &ScheduleLog, one: &StepPart<'_>, other: &StepPart<'_>) -> bool {
        let (ones, others) = (self.effects(log, one), self.effects(log, other));
        ones.iter().all(|one| {
            others.iter().all(|other| match (&**one, &**other) {
                (Some(one), Some(other)) => self.are_disjoint(one, other),
                _ => false,
            })
        })
    }

    fn are_disjoint(&self, one: &SimpleStatement, other: &SimpleStatement) -> bool {
        match (one.inserts(), other.inserts()) {
            // Two rows with the same key would not both have been inserted at once.
            (true, true) => self.texts_tell.inserted_values,
            _ => one.is_disjoint(other),
        }
    }
}

fn is_read_committed(log: &ScheduleLog, sent: &Sent) -> bool {
    let mut same = log.sent().filter(|other| other.step.transaction.is(&sent.step.transaction));
    let begin = same.find(|other| other.step.kind == StepKind::Begin);
    begin.is_some_and(|begin| begin.step.sql.contains("READ COMMITTED"))
}
