//! What one transaction locked, in order.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::row_lock::Strength;

use super::sql::Locking;

/// Something that is locked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    /// A row, by the values that it has in the columns of a unique key.
    Row {
        table: String,
        columns: Vec<String>,
        values: Vec<String>,
    },
    Advisory(String),
}

/// What the answer to a statement has to be for its locks to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Granted {
    /// Any answer that is no failure.
    IfAnswered,
    /// So many rows, which were read or written: a row that is not there is not locked.
    IfRows(usize),
    /// One row that is true.
    IfTrue,
    /// Nobody can tell: it was one statement of several.
    Untold,
}

/// What a statement was answered, as far as locks go.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answered {
    /// How many rows were read or written.
    pub(super) rows: usize,
    /// Whether its only row is true.
    pub(super) is_true: Option<bool>,
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
    /// Whether it stays with the session when the transaction ends.
    pub(super) outlives: bool,
    /// How many locks had been taken when the answer showed that this one is held.
    pub(super) certain_from: Option<usize>,
    /// How many locks had been taken when this one was given back early.
    pub(super) until: Option<usize>,
}

impl Taken {
    /// Whether it is certainly held when the lock at this place is asked for. Only such a lock keeps others
    /// out.
    pub(super) fn is_certain_at(&self, place: usize) -> bool {
        self.certain_from.is_some_and(|from| from <= place)
    }
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
    /// What the last statement asked for, what it held already included.
    asked: Vec<Asked>,
}

/// A lock that a statement asks for.
#[derive(Debug)]
struct Asked {
    lock: Lock,
    strength: Strength,
    waits: bool,
    granted: Granted,
}

impl Transaction {
    pub(super) fn begin_statement(&mut self) {
        self.before_last = self.trace.0.len();
        self.asked.clear();
    }

    /// Asks for locks. Returns how many of them the transaction did not hold yet.
    pub(super) fn take(&mut self, locking: Locking, statement: &Statement) -> usize {
        let Locking { locks, strength, waits, ordered, granted, outlives } = locking;
        let asked = locks.iter().map(|lock| Asked { lock: lock.clone(), strength, waits, granted });
        self.asked.extend(asked);
        let locks = self.not_held(&locks, strength);
        let (first, number) = (self.trace.0.len(), locks.len());
        for (i, lock) in locks.into_iter().enumerate() {
            let together = if ordered { first + i } else { first };
            let statement = statement.clone();
            let (until, certain_from) = (None, None);
            let taken = Taken { lock, strength, waits, statement, together, outlives, certain_from, until };
            self.trace.0.push(taken);
        }
        number
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

    /// The last statement was answered. Returns whether that leaves open if a lock is held that it had not
    /// waited for.
    pub(super) fn answered(&mut self, answer: Answered) -> bool {
        let (now, before) = (self.trace.0.len(), self.before_last);
        let mut is_open = false;
        for Asked { lock, strength, waits, granted } in std::mem::take(&mut self.asked) {
            let is_held = match granted {
                Granted::IfAnswered => Some(true),
                Granted::IfRows(rows) if answer.rows >= rows => Some(true),
                Granted::IfRows(_) if answer.rows == 0 && !waits => Some(false),
                Granted::IfRows(_) => None,
                Granted::IfTrue => {
                    is_open |= answer.is_true.is_none();
                    answer.is_true
                }
                Granted::Untold => None,
            };
            let same = self.trace.0.iter_mut().enumerate().filter(|(_, taken)| {
                taken.lock == lock && taken.until.is_none() && covers(taken.strength, strength)
            });
            for (place, taken) in same {
                match is_held {
                    Some(true) => {
                        taken.certain_from.get_or_insert(now);
                    }
                    Some(false) if place >= before => taken.until = Some(now),
                    _ => {}
                }
            }
        }
        is_open
    }

    /// Gives back locks of the session: one, or all of them.
    pub(super) fn unlock(&mut self, which: Option<&(Lock, Strength)>) {
        let now = self.trace.0.len();
        let is_meant = |taken: &Taken| {
            which.is_none_or(|(lock, strength)| taken.lock == *lock && taken.strength == *strength)
        };
        for taken in self.trace.0.iter_mut().filter(|taken| taken.outlives && is_meant(taken)) {
            taken.until.get_or_insert(now);
        }
    }

    /// A lock that its session keeps when the transaction ends.
    pub(super) fn left_behind(&self) -> Option<&Taken> {
        self.trace.0.iter().find(|taken| taken.outlives && taken.until.is_none())
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

    /// Back to a savepoint, which gives the locks since then back. InnoDB gives rows back only if nothing had
    /// been done before it, and other locks never.
    pub(super) fn undo_to(&mut self, name: &str, in_innodb: bool) {
        let savepoint = self.savepoints.iter().rev().find(|savepoint| savepoint.name == name);
        if let Some(savepoint) = savepoint.filter(|savepoint| savepoint.is_first || !in_innodb) {
            self.give_back(savepoint.taken, |taken| {
                !taken.outlives && (!in_innodb || matches!(taken.lock, Lock::Row { .. }))
            });
        }
    }

    /// What the last statement asked for was refused.
    pub(super) fn undo_statement(&mut self) {
        self.give_back(self.before_last, |_| true);
    }

    fn give_back(&mut self, from: usize, which: impl Fn(&Taken) -> bool) {
        let now = self.trace.0.len();
        for taken in self.trace.0.iter_mut().skip(from).filter(|taken| which(taken)) {
            taken.until.get_or_insert(now);
        }
    }
}

/// Whether two transactions cannot hold these at the same time ([PostgreSQL's
/// table](https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS), of which the other
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
