//! What one transaction locked, in order.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::lock::Strength;

/// Something that is locked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    Row { table: String, column: String, value: String },
    Advisory(String),
}

/// A statement, the same as another one if it is so but for its values.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) sql: Arc<str>,
    /// With its values.
    pub(super) shown: Arc<str>,
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.sql == other.sql
    }
}

impl Eq for Statement {}

impl Hash for Statement {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sql.hash(state);
    }
}

/// A lock that a statement takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Taken {
    pub(super) lock: Lock,
    pub(super) strength: Strength,
    /// Whether it is waited for: whoever does not wait is in no deadlock for it.
    pub(super) waits: bool,
    pub(super) statement: Statement,
    /// Locks with the same number are taken together, in an order that is the server's.
    pub(super) together: usize,
    /// How many locks had been taken when this one was given back early.
    pub(super) until: Option<usize>,
}

/// The locks of one transaction, in the order in which it asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Trace(pub(super) Vec<Taken>);

impl Trace {
    /// What is held when the lock at this place is asked for.
    pub(super) fn held_at(&self, place: usize) -> impl Iterator<Item = &Taken> {
        let together = self.0.get(place).map(|taken| taken.together);
        self.0.iter().take(place).filter(move |taken| {
            taken.until.is_none_or(|until| place < until) && Some(taken.together) != together
        })
    }
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    /// How many locks had been taken before it.
    taken: usize,
    /// Whether nothing else had been done before it.
    is_first: bool,
}

/// A transaction at work.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) trace: Trace,
    /// Rows that may have been locked when they were read.
    read: HashSet<Lock>,
    savepoints: Vec<Savepoint>,
    /// Whether there was a statement yet.
    is_used: bool,
    /// How many locks had been taken before the last statement.
    before_last: usize,
}

impl Transaction {
    pub(super) fn begin_statement(&mut self) {
        self.before_last = self.trace.0.len();
    }

    /// Answers which of these locks the transaction does not hold yet.
    pub(super) fn not_held(&self, locks: &[Lock], strength: Strength) -> Vec<Lock> {
        let is_held = |lock: &Lock| {
            self.read.contains(lock)
                || self.trace.0.iter().any(|taken| {
                    taken.lock == *lock && taken.until.is_none() && covers(taken.strength, strength)
                })
        };
        locks.iter().filter(|lock| !is_held(lock)).cloned().collect()
    }

    pub(super) fn take(
        &mut self,
        locks: Vec<Lock>,
        strength: Strength,
        waits: bool,
        ordered: bool,
        statement: &Statement,
    ) {
        let first = self.trace.0.len();
        for (i, lock) in locks.into_iter().enumerate() {
            let together = if ordered { first + i } else { first };
            let statement = statement.clone();
            self.trace.0.push(Taken { lock, strength, waits, statement, together, until: None });
        }
    }

    pub(super) fn read(&mut self, rows: Vec<Lock>) {
        self.read.extend(rows);
    }

    /// A statement of the unit's own was sent.
    pub(super) fn use_it(&mut self) {
        self.is_used = true;
    }

    pub(super) fn savepoint(&mut self, name: String) {
        self.savepoints.push(Savepoint { name, taken: self.trace.0.len(), is_first: !self.is_used });
    }

    /// Back to a savepoint, which gives the locks since then back. InnoDB gives rows back only if nothing had been done
    /// before it, and other locks never.
    pub(super) fn undo_to(&mut self, name: &str, in_innodb: bool) {
        let savepoint = self.savepoints.iter().rev().find(|savepoint| savepoint.name == name);
        if let Some(savepoint) = savepoint.filter(|savepoint| savepoint.is_first || !in_innodb) {
            self.give_back(savepoint.taken, |lock| !in_innodb || matches!(lock, Lock::Row { .. }));
        }
    }

    /// What the last statement asked for was refused.
    pub(super) fn undo_statement(&mut self) {
        self.give_back(self.before_last, |_| true);
    }

    fn give_back(&mut self, from: usize, which: impl Fn(&Lock) -> bool) {
        let now = self.trace.0.len();
        for taken in self.trace.0.iter_mut().skip(from).filter(|taken| which(&taken.lock)) {
            taken.until.get_or_insert(now);
        }
    }
}

/// Whether two transactions cannot hold these at the same time
/// ([PostgreSQL's table](https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS), of which the other
/// databases have a part).
pub(super) const fn conflict(one: Strength, other: Strength) -> bool {
    use Strength::{NoKeyUpdate, Share, Update};
    matches!(
        (one, other),
        (Update, _) | (_, Update) | (NoKeyUpdate, NoKeyUpdate | Share) | (Share, NoKeyUpdate)
    )
}

/// Whether whoever holds the first has the second with it.
pub(super) const fn covers(held: Strength, wanted: Strength) -> bool {
    use Strength::{KeyShare, NoKeyUpdate, Share, Update};
    match held {
        Update => true,
        NoKeyUpdate => !matches!(wanted, Update),
        Share => matches!(wanted, Share | KeyShare),
        KeyShare => matches!(wanted, KeyShare),
    }
}
