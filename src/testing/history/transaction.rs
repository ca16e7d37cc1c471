//! Histories of transactions, as plain data.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Error;

/// An operation of a transaction on a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It appended a value. No other operation appends the same value to the same list.
    Append {
        /// The list.
        key: i64,
        /// The value.
        value: i64,
    },
    /// It read the list.
    Read {
        /// The list.
        key: i64,
        /// The values that it read, in the order of the list.
        list: Vec<i64>,
    },
}

impl Operation {
    /// Returns an append of `value` to the list `key`.
    #[must_use]
    pub const fn append(key: i64, value: i64) -> Self {
        Self::Append { key, value }
    }

    /// Returns a read of the list `key`, with its result.
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

/// Displays a list: of a long one, only the end.
pub(super) struct List<'a>(pub(super) &'a [i64]);

const MAX_DISPLAYED: usize = 8;

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.0.len().saturating_sub(MAX_DISPLAYED);
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

/// The outcome of a transaction, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    /// It committed.
    Committed,
    /// It was rolled back, and will never commit.
    Aborted,
    /// The client does not know. It counts as committed if a committed transaction has read one of its
    /// appends. Its own reads are ignored.
    Unknown,
}

impl TransactionOutcome {
    /// Returns the outcome of the last attempt of a run with this result.
    #[must_use]
    pub fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Committed,
            Err(error) if error.is_commit_unknown() => Self::Unknown,
            Err(_) => Self::Aborted,
        }
    }
}

impl fmt::Display for TransactionOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
        })
    }
}

/// A transaction of a history: one attempt of a unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub(super) operations: Vec<Operation>,
    pub(super) outcome: TransactionOutcome,
    pub(super) session: Option<u32>,
    pub(super) began: Option<u64>,
    pub(super) ended: Option<u64>,
}

impl Transaction {
    fn new(operations: impl IntoIterator<Item = Operation>, outcome: TransactionOutcome) -> Self {
        let operations = operations.into_iter().collect();
        Self { operations, outcome, session: None, began: None, ended: None }
    }

    /// Returns a transaction that committed.
    #[must_use]
    pub fn committed(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, TransactionOutcome::Committed)
    }

    /// Returns a transaction that was rolled back.
    #[must_use]
    pub fn aborted(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, TransactionOutcome::Aborted)
    }

    /// Returns a transaction whose commit was sent and never answered.
    #[must_use]
    pub fn unknown(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self::new(operations, TransactionOutcome::Unknown)
    }

    /// Sets the session that ran the transaction. A session runs its transactions one after another, in the
    /// order of the history.
    #[must_use]
    pub const fn in_session(mut self, session: u32) -> Self {
        self.session = Some(session);
        self
    }

    /// Sets when the transaction's first packet may have been sent and when its end was known, on any
    /// monotonic clock.
    ///
    /// `began` must not be later than the snapshot of the transaction, or a correct history is reported as
    /// wrong.
    #[must_use]
    pub const fn between(mut self, began: u64, ended: u64) -> Self {
        (self.began, self.ended) = (Some(began), Some(ended));
        self
    }

    /// Returns the operations of the transaction, in order.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Returns the outcome of the transaction.
    #[must_use]
    pub const fn outcome(&self) -> TransactionOutcome {
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

/// The transactions of clients on a set of lists, with their results, to be [checked](Self::check).
///
/// [`ListAppend`](super::ListAppend) and [`Recorder`](super::Recorder) record histories. They can also be
/// written by hand:
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
/// Transactions are numbered in the order in which they were added: T1, T2, and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub(super) transactions: Vec<Transaction>,
    /// The final states of lists.
    pub(super) last: BTreeMap<i64, Vec<i64>>,
}

impl History {
    /// Creates an empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transaction.
    pub fn push(&mut self, transaction: Transaction) {
        self.transactions.push(transaction);
    }

    /// Adds the final state of a list. It distinguishes lost appends from those that no transaction has read.
    #[must_use]
    pub fn ending_with(mut self, key: i64, list: impl Into<Vec<i64>>) -> Self {
        self.last.insert(key, list.into());
        self
    }

    /// Returns the transactions, T1 first.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// Returns the number of transactions with this outcome. A history without commits has no anomalies
    /// either.
    #[must_use]
    pub fn count(&self, outcome: TransactionOutcome) -> usize {
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

/// The error of a history in which a value was appended twice to one list, which makes reads of it ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two operations appended {value} to key {key}, so reads of it are ambiguous; append unique values")]
#[non_exhaustive]
pub struct DuplicateValue {
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
    fn an_unanswered_commit_has_an_unknown_outcome() {
        let failed = |kind| Err::<(), _>(Error::failed(Failure::new(kind, "no"), None));
        assert_eq!(TransactionOutcome::of(&Ok(())), TransactionOutcome::Committed);
        assert_eq!(TransactionOutcome::of(&failed(FailureKind::Deadlock)), TransactionOutcome::Aborted);
        assert_eq!(TransactionOutcome::of(&failed(FailureKind::CommitUnknown)), TransactionOutcome::Unknown);
    }
}
