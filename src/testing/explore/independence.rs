//! Which steps of different clients cannot affect each other, so that their order does not matter.
//!
//! Two schedules that differ only in the order of such steps have the same outcome: the steps of both form
//! the same Mazurkiewicz trace. Whatever is not known to be independent counts as dependent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::intercept::{Step, StepKind};
use crate::sql_text::{SqlStatement, SqlStatements, Syntax};

use super::log::{Entry, ScheduleLog, Sent, Waited};

mod effect;
mod statement;
mod texts_tell;
mod trace;

use effect::TextEffect;
use statement::SimpleStatement;

pub(super) use texts_tell::{MYSQL_HIDDEN_EFFECTS, POSTGRES_HIDDEN_EFFECTS, TextsTell};

/// A text, and its bound values.
type BoundText = (String, Option<Vec<String>>);

/// Decides which steps are independent.
#[derive(Debug)]
pub(super) struct Independence {
    syntax: Syntax,
    texts_tell: TextsTell,
    /// What was read from texts, by text and bound values.
    statements: Mutex<HashMap<BoundText, Arc<TextEffect>>>,
}

/// What is known of a step in every state: not its rows, because values differ from schedule to schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StepClass {
    pub(super) client: usize,
    kind: StepKind,
    /// `None` if the step failed: then its effects are unknown.
    effects: Option<Vec<Arc<TextEffect>>>,
    is_read_committed: bool,
    is_bare_begin: bool,
}

/// The beginning of a step that was not refused, or the end of one that waited.
struct StepPart<'l> {
    client: usize,
    kind: StepKind,
    waited: Option<&'l Waited>,
    /// Whether this is the end of a wait.
    is_end: bool,
    /// The statements whose effects the step has: its own, or those that it makes visible or undoes. Reads
    /// without locks leave nothing for the end of their transaction.
    effects: Vec<Arc<TextEffect>>,
    /// Whether each statement of its transaction reads what is committed at that moment.
    is_read_committed: bool,
    /// Whether it opens a transaction and does nothing else. A snapshot is taken by the first statement, and
    /// not by BEGIN.
    is_bare_begin: bool,
    /// Whether its transaction has locked a SQLite database at its beginning.
    locks_database: bool,
    /// Whether it stands for such steps in every state, where they may wait.
    is_anywhere: bool,
}

impl StepPart<'_> {
    /// Whether this step waited for the client of the other one, as far as the server tells, and that step
    /// may have begun or ended the wait. BEGIN does neither, and nor does a statement that is answered at
    /// once to a wait for another lock.
    fn may_wait_for(&self, other: &Self) -> bool {
        let is_apart = match other.kind {
            StepKind::Begin => true,
            StepKind::Statement => !self.is_end && other.waited.is_none(),
            StepKind::Control | StepKind::Commit | StepKind::Rollback => false,
        };
        let waited_for =
            |waited: &Waited| waited.blocked_by.is_empty() || waited.blocked_by.contains(&other.client);
        !is_apart && self.waited.is_some_and(waited_for)
    }

    /// Its statement, if its effects are known.
    fn statement(&self) -> Option<&SimpleStatement> {
        match &*self.effects {
            [statement] if self.kind == StepKind::Statement => statement.rows(),
            _ => None,
        }
    }

    /// Whether the steps lead to the same state of a SQLite database in either order.
    ///
    /// SQLite locks the whole database. A BEGIN that finds it locked has no effect, and a transaction that
    /// locked it at its BEGIN holds the lock until its end.
    fn commutes_on_sqlite(&self, other: &Self) -> bool {
        let waits = |part: &Self| part.kind == StepKind::Begin && part.waited.is_some() && !part.is_end;
        let holds =
            |part: &Self| part.kind == StepKind::Statement && part.waited.is_none() && part.locks_database;
        let has_no_effect = |one, other| waits(one) && (waits(other) || holds(other));
        self.client != other.client && (has_no_effect(self, other) || has_no_effect(other, self))
    }

    /// Whether both read at READ COMMITTED, and one of them without locks: it sees the rows that the other
    /// one locks, and does not wait for their locks.
    fn reads_beside(&self, other: &Self) -> bool {
        let (Some(first), Some(second)) = (self.statement(), other.statement()) else { return false };
        self.is_read_committed
            && other.is_read_committed
            && first.is_read
            && second.is_read
            && (first.is_plain_read || second.is_plain_read)
    }
}

impl Independence {
    pub(super) fn new(syntax: Syntax, texts_tell: TextsTell) -> Self {
        Self { syntax, texts_tell, statements: Mutex::default() }
    }

    /// Whether it is known of some steps that they are independent in every state.
    pub(super) fn holds_in_every_state(&self) -> bool {
        self.texts_tell.tables || self.syntax == Syntax::Sqlite
    }

    fn part<'l>(&self, log: &'l ScheduleLog, entry: usize) -> Option<StepPart<'l>> {
        let (sent, is_end) = match log.0.get(entry)? {
            Entry::Sent(sent) => (sent, false),
            Entry::Unblocked(index) => match log.0.get(*index)? {
                Entry::Sent(sent) => (sent, true),
                Entry::Unblocked(_) => return None,
            },
        };
        let same = || log.sent().filter(|other| other.step.transaction.is(&sent.step.transaction));
        let begin = same().find(|other| other.step.kind == StepKind::Begin).map(|begin| &*begin.step.sql);
        let effects = match sent.step.kind {
            StepKind::Statement => vec![self.statement(&sent.step)],
            StepKind::Commit | StepKind::Rollback => {
                let is_inside =
                    |sent: &&Sent| matches!(sent.step.kind, StepKind::Statement | StepKind::Control);
                let statements = same().filter(is_inside).map(|sent| self.statement(&sent.step));
                statements.filter(|statement| !statement.is_plain_read()).collect()
            }
            StepKind::Begin | StepKind::Control => Vec::new(),
        };
        sent.failure().is_none().then(|| StepPart {
            client: sent.client,
            kind: sent.step.kind,
            waited: sent.waited.as_ref(),
            is_end,
            effects,
            is_read_committed: begin.is_some_and(|begin| begin.contains("READ COMMITTED")),
            is_bare_begin: sent.step.kind == StepKind::Begin && self.is_bare_begin(&sent.step.sql),
            locks_database: begin.is_some_and(|begin| begin.contains("IMMEDIATE")),
            is_anywhere: false,
        })
    }

    /// What an entry of the log is.
    pub(super) fn class(&self, log: &ScheduleLog, entry: usize) -> StepClass {
        let client = log.client_of(entry);
        match self.part(log, entry) {
            Some(part) => {
                let without_rows = |effect: &Arc<TextEffect>| Arc::new(effect.without_rows());
                StepClass {
                    client,
                    kind: part.kind,
                    effects: Some(part.effects.iter().map(without_rows).collect()),
                    is_read_committed: part.is_read_committed,
                    is_bare_begin: part.is_bare_begin,
                }
            }
            None => StepClass {
                client,
                kind: StepKind::Control,
                effects: None,
                is_read_committed: false,
                is_bare_begin: false,
            },
        }
    }

    /// Whether steps of these classes are independent in every state, and never wait for each other.
    pub(super) fn never_affect_each_other(&self, one: &StepClass, other: &StepClass) -> bool {
        let part = |class: &StepClass| {
            Some(StepPart {
                client: class.client,
                kind: class.kind,
                waited: None,
                is_end: false,
                effects: class.effects.clone()?,
                is_read_committed: class.is_read_committed,
                is_bare_begin: class.is_bare_begin,
                locks_database: false,
                is_anywhere: true,
            })
        };
        self.syntax != Syntax::Sqlite && self.commute(&part(one), &part(other))
    }

    fn statement(&self, step: &Step) -> Arc<TextEffect> {
        if step.kind != StepKind::Statement {
            return Arc::default();
        }
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (step.sql.clone(), step.arguments.clone());
        let read = || {
            let arguments = step.arguments.as_deref().unwrap_or_default();
            Arc::new(TextEffect::of(self.syntax, &step.sql, arguments))
        };
        statements.entry(key).or_insert_with(read).clone()
    }

    /// Whether the steps lead to the same state in either order.
    fn commute(&self, one: &Option<StepPart<'_>>, other: &Option<StepPart<'_>>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return false };
        if self.syntax == Syntax::Sqlite {
            return one.commutes_on_sqlite(other);
        }
        if one.client == other.client || one.may_wait_for(other) || other.may_wait_for(one) {
            return false;
        }
        match (one.kind, other.kind) {
            (StepKind::Begin, _) => one.is_bare_begin,
            (_, StepKind::Begin) => other.is_bare_begin,
            (StepKind::Control, _) | (_, StepKind::Control) => false,
            _ => {
                let are_plain = || {
                    let is_plain = |part: &StepPart<'_>| {
                        part.waited.is_none() && part.statement().is_some_and(|read| read.is_plain_read)
                    };
                    is_plain(one) && is_plain(other)
                };
                are_plain() || one.reads_beside(other) || self.have_independent_effects(one, other)
            }
        }
    }

    fn is_bare_begin(&self, sql: &str) -> bool {
        let parsed = SqlStatements::of(self.syntax, sql);
        let opens = |statement: &SqlStatement<'_>| {
            statement.begins_with_any(&["BEGIN", "SAVEPOINT", "SET", "SHOW", "START"])
        };
        parsed.complete && parsed.statements.iter().all(opens)
    }

    /// A transaction with one snapshot sees what others have committed before its first statement, and a
    /// serializable one is aborted for reads that are not known.
    fn have_independent_effects(&self, one: &StepPart<'_>, other: &StepPart<'_>) -> bool {
        let is_answered_at_once = |part: &StepPart<'_>| part.waited.is_none() && !part.is_anywhere;
        let at_once = is_answered_at_once(one) && is_answered_at_once(other);
        let has_known_effects = |part: &StepPart<'_>| part.effects.iter().all(|effect| effect.is_known());
        self.texts_tell.tables
            && one.is_read_committed
            && other.is_read_committed
            && has_known_effects(one)
            && has_known_effects(other)
            && one.effects.iter().all(|first| {
                other.effects.iter().all(|second| {
                    !self.share_sequence(first, second)
                        && (overlooks(one, first, other)
                            || overlooks(other, second, one)
                            || (at_once && lock_in_share_mode(first, second))
                            || self.are_disjoint(first, second, at_once))
                })
            })
    }

    /// Whether one may draw from a sequence that the other one draws from or reads: a sequence is a table
    /// whose uncommitted changes are visible.
    fn share_sequence(&self, one: &TextEffect, other: &TextEffect) -> bool {
        if self.syntax != Syntax::Postgres {
            return false;
        }
        let sequences = &self.texts_tell.sequences;
        let may_read = |effect: &TextEffect| effect.is_plain_read() && effect.may_use(sequences);
        match (one.may_draw_from(sequences), other.may_draw_from(sequences)) {
            (true, true) => true,
            (true, false) => may_read(other),
            (false, true) => may_read(one),
            (false, false) => false,
        }
    }

    fn are_disjoint(&self, one: &TextEffect, other: &TextEffect, at_once: bool) -> bool {
        let (TextEffect::Rows(first), TextEffect::Rows(second)) = (one, other) else {
            return one.has_other_tables(other);
        };
        let is_keyless = !first.concerns_one_of(&self.texts_tell.unique)
            && !first.concerns_one_of(&self.texts_tell.sequences);
        match (first.inserts(), second.inserts()) {
            // Without a unique key and a sequence, a new row neither depends on other new rows nor waits.
            (true, true) if is_keyless => true,
            _ if !self.texts_tell.rows => one.has_other_tables(other),
            // Two rows with the same key would not both have been inserted at once.
            (true, true) if at_once => true,
            // One that waits for a row with the same key may have inserted a part of its own row.
            (true, _) | (_, true) if !at_once && !first.is_read && !second.is_read => {
                one.has_other_tables(other)
            }
            _ => first.is_disjoint(second),
        }
    }
}

/// Whether this is a read that sees committed rows only, and the other step commits none. Such a read neither
/// waits for row locks nor delays a change.
fn overlooks(one: &StepPart<'_>, read: &TextEffect, other: &StepPart<'_>) -> bool {
    one.kind == StepKind::Statement
        && one.waited.is_none()
        && other.kind != StepKind::Commit
        && read.rows().is_some_and(SimpleStatement::reads_committed_rows)
}

fn lock_in_share_mode(one: &TextEffect, other: &TextEffect) -> bool {
    let is_shared = |effect: &TextEffect| effect.rows().is_some_and(|read| read.locks_in_share_mode);
    is_shared(one) && is_shared(other)
}
