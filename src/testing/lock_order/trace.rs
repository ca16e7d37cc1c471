//! The locks of one transaction, in the order in which it requested them.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::row_lock::Strength;

use super::effect::{Granted, Lock, Locking};

/// What the answer to a statement shows about its locks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answered {
    /// The number of rows that were read or written.
    pub(super) rows: usize,
    /// Whether its only row is true.
    pub(super) is_true: Option<bool>,
}

/// The text of a statement. Texts that differ in their bound values only are equal.
#[derive(Debug, Clone)]
pub(super) struct StatementText {
    pub(super) sql: Arc<str>,
    pub(super) with_values: Arc<str>,
}

impl PartialEq for StatementText {
    fn eq(&self, other: &Self) -> bool {
        self.sql == other.sql
    }
}

impl Eq for StatementText {}

impl Hash for StatementText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sql.hash(state);
    }
}

/// A lock that a statement requested.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Taken {
    pub(super) lock: Lock,
    pub(super) strength: Strength,
    /// Whether the statement waits for it. A statement that does not wait is not part of a deadlock.
    pub(super) waits: bool,
    pub(super) statement: StatementText,
    /// Locks of the same group are requested together, in an order that the server chooses.
    pub(super) group: usize,
    /// Whether the session keeps it when the transaction ends.
    pub(super) session: bool,
    /// The length of the trace when an answer showed that this lock is held.
    pub(super) certain_from: Option<usize>,
    /// The length of the trace when this lock was released before the end of the transaction.
    pub(super) until: Option<usize>,
}

impl Taken {
    /// Whether it is certainly held when the lock at `index` is requested. Only then does it keep other
    /// transactions out.
    pub(super) fn is_certain_at(&self, index: usize) -> bool {
        self.certain_from.is_some_and(|from| from <= index)
    }
}

/// The locks of one transaction, in the order in which it requested them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Trace(pub(super) Vec<Taken>);

impl Trace {
    /// The locks that are held when the lock at `index` is requested.
    pub(super) fn held_at(&self, index: usize) -> impl Iterator<Item = &Taken> {
        let group = self.0.get(index).map(|taken| taken.group);
        self.0
            .iter()
            .take(index)
            .filter(move |taken| taken.until.is_none_or(|until| index < until) && Some(taken.group) != group)
    }
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    /// The length of the trace when it was set.
    taken: usize,
    /// Whether it was set before the first statement of the unit.
    is_first: bool,
}

/// A running transaction.
#[derive(Debug, Default)]
pub(super) struct TracedTransaction {
    pub(super) trace: Trace,
    /// Rows that were read, and may be locked by that.
    read: HashSet<Lock>,
    savepoints: Vec<Savepoint>,
    /// Whether the unit has sent a statement.
    is_used: bool,
    /// The length of the trace before the last statement.
    before_last: usize,
    /// What the last statement requested, including locks that were held before.
    requested: Vec<Requested>,
}

#[derive(Debug)]
struct Requested {
    lock: Lock,
    strength: Strength,
    waits: bool,
    granted: Granted,
}

impl TracedTransaction {
    pub(super) fn begin_statement(&mut self) {
        self.before_last = self.trace.0.len();
        self.requested.clear();
    }

    /// Records a request for locks. Returns how many of them the transaction did not hold before.
    pub(super) fn request(&mut self, locking: Locking, statement: &StatementText) -> usize {
        let Locking { locks, strength, waits, ordered, granted, session } = locking;
        let requested = locks.iter().map(|lock| Requested { lock: lock.clone(), strength, waits, granted });
        self.requested.extend(requested);
        let locks = self.not_held(&locks, strength);
        let (first, count) = (self.trace.0.len(), locks.len());
        for (i, lock) in locks.into_iter().enumerate() {
            let group = if ordered { first + i } else { first };
            let statement = statement.clone();
            let (until, certain_from) = (None, None);
            self.trace.0.push(Taken {
                lock,
                strength,
                waits,
                statement,
                group,
                session,
                certain_from,
                until,
            });
        }
        count
    }

    fn not_held(&self, locks: &[Lock], strength: Strength) -> Vec<Lock> {
        let is_held = |lock: &Lock| {
            self.read.contains(lock)
                || self.trace.0.iter().any(|taken| {
                    taken.lock == *lock && taken.until.is_none() && covers(taken.strength, strength)
                })
        };
        locks.iter().filter(|lock| !is_held(lock)).cloned().collect()
    }

    /// Records the answer to the last statement. Returns whether it is unknown if a lock was granted that the
    /// statement did not wait for.
    pub(super) fn answered(&mut self, answer: Answered) -> bool {
        let (now, before) = (self.trace.0.len(), self.before_last);
        let mut is_unknown = false;
        for Requested { lock, strength, waits, granted } in std::mem::take(&mut self.requested) {
            let is_held = match granted {
                Granted::IfAnswered => Some(true),
                Granted::IfRows(rows) if answer.rows >= rows => Some(true),
                Granted::IfRows(_) if answer.rows == 0 && !waits => Some(false),
                Granted::IfRows(_) => None,
                Granted::IfTrue => {
                    is_unknown |= answer.is_true.is_none();
                    answer.is_true
                }
                Granted::Unknown => None,
            };
            let same = self.trace.0.iter_mut().enumerate().filter(|(_, taken)| {
                taken.lock == lock && taken.until.is_none() && covers(taken.strength, strength)
            });
            for (index, taken) in same {
                match is_held {
                    Some(true) => {
                        taken.certain_from.get_or_insert(now);
                    }
                    Some(false) if index >= before => taken.until = Some(now),
                    _ => {}
                }
            }
        }
        is_unknown
    }

    /// Releases one lock of the session, or all of them (`None`).
    pub(super) fn unlock(&mut self, which: Option<&(Lock, Strength)>) {
        self.release(0, |taken| {
            taken.session
                && which.is_none_or(|(lock, strength)| taken.lock == *lock && taken.strength == *strength)
        });
    }

    /// A lock that the session keeps when the transaction ends.
    pub(super) fn left_behind(&self) -> Option<&Taken> {
        self.trace.0.iter().find(|taken| taken.session && taken.until.is_none())
    }

    pub(super) fn read(&mut self, rows: Vec<Lock>) {
        self.read.extend(rows);
    }

    /// Records that the unit sent a statement of its own.
    pub(super) fn mark_used(&mut self) {
        self.is_used = true;
    }

    pub(super) fn savepoint(&mut self, name: String) {
        self.savepoints.push(Savepoint { name, taken: self.trace.0.len(), is_first: !self.is_used });
    }

    /// Rolls back to a savepoint, which releases the locks that were acquired since. InnoDB releases row
    /// locks only if the savepoint came before every statement, and other locks never.
    pub(super) fn roll_back_to(&mut self, name: &str, in_innodb: bool) {
        let savepoint = self.savepoints.iter().rev().find(|savepoint| savepoint.name == name);
        if let Some(savepoint) = savepoint.filter(|savepoint| savepoint.is_first || !in_innodb) {
            self.release(savepoint.taken, |taken| {
                !taken.session && (!in_innodb || matches!(taken.lock, Lock::Row { .. }))
            });
        }
    }

    /// Records that the locks of the last statement were refused.
    pub(super) fn refuse_statement(&mut self) {
        self.release(self.before_last, |_| true);
    }

    fn release(&mut self, from: usize, which: impl Fn(&Taken) -> bool) {
        let now = self.trace.0.len();
        for taken in self.trace.0.iter_mut().skip(from).filter(|taken| which(taken)) {
            taken.until.get_or_insert(now);
        }
    }
}

/// Whether two transactions cannot hold these strengths at the same time, by [PostgreSQL's
/// table](https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS). The other databases
/// have some of its rows.
pub(super) const fn conflict(one: Strength, other: Strength) -> bool {
    use Strength::{NoKeyUpdate, Share, Update};
    matches!(
        (one, other),
        (Update, _) | (_, Update) | (NoKeyUpdate, NoKeyUpdate | Share) | (Share, NoKeyUpdate)
    )
}

/// Whether holding one strength includes holding the other.
pub(super) const fn covers(held: Strength, wanted: Strength) -> bool {
    use Strength::{KeyShare, NoKeyUpdate, Share, Update};
    match held {
        Update => true,
        NoKeyUpdate => !matches!(wanted, Update),
        Share => matches!(wanted, Share | KeyShare),
        KeyShare => matches!(wanted, KeyShare),
    }
}
