//! What was done and seen, as plain data.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Error;

/// One thing that a transaction did to a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It put a value at the end. No other transaction puts the same value into the same list.
    Append {
        /// Which list.
        key: i64,
        /// What was put there.
        value: i64,
    },
    /// It read the list.
    Read {
        /// Which list.
        key: i64,
        /// What it read, in the order of the list.
        list: Vec<i64>,
    },
}

impl Operation {
    /// An append.
    #[must_use]
    pub const fn append(key: i64, value: i64) -> Self {
        Self::Append { key, value }
    }

    /// A read, and what it read.
    #[must_use]
    pub fn read(key: i64, list: impl Into<Vec<i64>>) -> Self {
        Self::Read { key, list: list.into() }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { key, value } => write!(f, "append {value} to key {key}"),
            Self::Read { key, list } => write!(f, "read {} of key {key}", List(list)),
        }
    }
}

/// A list as it is printed: of a long one, the end.
pub(super) struct List<'a>(pub(super) &'a [i64]);

const SHOWN: usize = 8;

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.0.len().saturating_sub(SHOWN);
        f.write_str("[")?;
        if hidden > 0 {
            write!(f, "({hidden} more) ")?;
        }
        for (i, value) in self.0.iter().skip(hidden).enumerate() {
            write!(f, "{}{value}", if i == 0 { "" } else { " " })?;
        }
        f.write_str("]")
    }
}

/// What became of a transaction, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is stored.
    Committed,
    /// It is not, and never will be.
    Aborted,
    /// Nobody told. It counts as committed once a committed transaction has read what it appended; what it
    /// read itself is not looked at.
    Unknown,
}

impl Outcome {
    /// What the end of a run says about its last attempt.
    #[must_use]
    pub fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Committed,
            Err(error) if error.is_commit_unknown() => Self::Unknown,
            Err(_) => Self::Aborted,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        })
    }
}

/// One transaction: one attempt of a unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub(super) operations: Vec<Operation>,
    pub(super) outcome: Outcome,
    pub(super) session: Option<u32>,
    pub(super) began: Option<u64>,
    pub(super) ended: Option<u64>,
}

impl Transaction {
    fn new(operations: impl IntoIterator<Item = Operation>, outcome: Outcome) -> Self {
        let operations = operations.into_iter().collect();
        Self { operations, outcome, session: None, began: None, ended: None }
    }

    /// One that committed.
    #[must_use]
    pub fn committed(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, Outcome::Committed)
    }

    /// One that was rolled back.
    #[must_use]
    pub fn aborted(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, Outcome::Aborted)
    }

    /// One whose commit was sent and never answered.
    #[must_use]
    pub fn unknown(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, Outcome::Unknown)
    }

    /// The session that ran it. Sessions run their transactions one after another, in the order of the
    /// history.
    #[must_use]
    pub const fn in_session(mut self, session: u32) -> Self {
        self.session = Some(session);
        self
    }

    /// When its first packet may have been sent, on any clock that only goes forward, and when its end was
    /// known. A beginning that is noted later, when the snapshot has been taken, makes a right history look
    /// wrong.
    #[must_use]
    pub const fn between(mut self, began: u64, ended: u64) -> Self {
        (self.began, self.ended) = (Some(began), Some(ended));
        self
    }

    /// What it did, in order.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What became of it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outcome)?;
        if let Some(session) = self.session {
            write!(f, ", session {session}")?;
        }
        for (i, operation) in self.operations.iter().enumerate() {
            write!(f, "{} {operation}", if i == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// What clients did to a set of lists, and what they saw: to be [checked](Self::check).
///
/// Recorded by [`ListAppend`](super::ListAppend) or a [`Recorder`](super::Recorder), or written by hand:
///
/// ```
/// use atomically::testing::history::{History, Operation, Transaction};
///
/// let history: History = [
///     Transaction::committed([Operation::append(7, 1)]),
///     Transaction::committed([Operation::read(7, [1]), Operation::append(7, 2)]),
/// ]
/// .into_iter()
/// .collect();
/// assert!(history.check().unwrap().anomalies().is_empty());
/// ```
///
/// Transactions have numbers, counted from 1 in the order in which they were put in: T1, T2, and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub(super) transactions: Vec<Transaction>,
    pub(super) last: BTreeMap<i64, Vec<i64>>,
}

impl History {
    /// Nothing done yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transaction.
    pub fn push(&mut self, transaction: Transaction) {
        self.transactions.push(transaction);
    }

    /// What a list holds after everything has ended. With it, a lost append can be told from one that nobody
    /// happened to read.
    #[must_use]
    pub fn ending_with(mut self, key: i64, list: impl Into<Vec<i64>>) -> Self {
        self.last.insert(key, list.into());
        self
    }

    /// The transactions, T1 first.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// How many transactions ended like this. A history in which nothing was committed has no anomalies
    /// either.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.transactions.iter().filter(|transaction| transaction.outcome == outcome).count()
    }
}

impl FromIterator<Transaction> for History {
    fn from_iter<I: IntoIterator<Item = Transaction>>(transactions: I) -> Self {
        Self { transactions: transactions.into_iter().collect(), last: BTreeMap::new() }
    }
}

impl Extend<Transaction> for History {
    fn extend<I: IntoIterator<Item = Transaction>>(&mut self, transactions: I) {
        self.transactions.extend(transactions);
    }
}

/// Two transactions of a history appended the same value to the same list, so nobody can tell who was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value {value} was appended to key {key} by two operations: nobody can tell which of them was read")]
pub struct NotUnique {
    /// The list.
    pub key: i64,
    /// The value.
    pub value: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, FailureKind};

    #[test]
    fn a_commit_without_an_answer_is_unknown() {
        let failed = |kind| Err::<(), _>(Error::failed(Failure::new(kind, "no"), None));
        assert_eq!(Outcome::of(&Ok(())), Outcome::Committed);
        assert_eq!(Outcome::of(&failed(FailureKind::Deadlock)), Outcome::Aborted);
        assert_eq!(Outcome::of(&failed(FailureKind::CommitUnknown)), Outcome::Unknown);
    }
}
