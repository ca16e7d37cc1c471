//! What [`LockOrder`](super::LockOrder) reports.

use std::fmt;

/// A cycle of transactions each of which may wait for the next: a potential deadlock.
///
/// Its `Display` lists the orders with the statements that acquire the locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inversion {
    pub(super) orders: Vec<AcquisitionOrder>,
}

/// The order in which a transaction acquired two locks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcquisitionOrder {
    /// The lock that the transaction held.
    pub first: Locked,
    /// The lock that it requested while it held the first.
    pub then: Locked,
}

/// A lock, and the statement that acquired it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Locked {
    /// The lock, such as `account id=1` or `advisory lock 42`.
    pub lock: String,
    /// The statement, with its bound values in place.
    pub statement: String,
}

/// A statement whose locks could not be determined.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownLocks {
    /// The statement, without its bound values.
    pub statement: String,
    /// Why its locks could not be determined.
    pub reason: UnknownReason,
}

/// Why the locks of a statement could not be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnknownReason {
    /// Its text could not be parsed.
    Text,
    /// It does not identify the rows that it locks by their keys, or it locks something other than rows.
    Rows,
    /// It locks several rows in an order that the server chooses.
    Order,
    /// The unique keys of its table are unknown: the table is not in the catalog, or has keys that are not
    /// made of columns.
    Keys,
    /// It may name the same lock as another statement that spells it differently.
    Name,
    /// It tries to acquire a lock without waiting, and its answer does not show whether it succeeded.
    Granted,
    /// Its lock belongs to the session and is still held when the transaction ends.
    Session,
}

impl Inversion {
    /// Returns the orders in which the transactions acquired their locks: each requests a lock that the next
    /// one holds, and the last one requests a lock that the first one holds.
    ///
    /// A single order is a lock that is acquired shared and then exclusively: two transactions that both do
    /// this wait for each other.
    #[must_use]
    pub fn orders(&self) -> &[AcquisitionOrder] {
        &self.orders
    }
}

impl fmt::Display for Inversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, AcquisitionOrder { first, then }) in self.orders.iter().enumerate() {
            let and = if i == 0 { "" } else { "\nand " };
            if first.lock == then.lock {
                write!(f, "{and}{} shared before it is locked for a change, by two at a time:", first.lock)?;
            } else {
                write!(f, "{and}{} before {}:", first.lock, then.lock)?;
            }
            write!(f, "\n    {}", first.statement)?;
            if first.statement != then.statement {
                write!(f, "\n    {}", then.statement)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for UnknownLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.statement)
    }
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "could not be parsed",
            Self::Rows => "does not say which rows it locks",
            Self::Order => "locks several rows in an order that the server chooses",
            Self::Keys => "locks rows of a table whose unique keys are unknown",
            Self::Name => "spells a lock differently from another statement",
            Self::Granted => "does not show whether its lock was granted",
            Self::Session => "leaves a lock with its session when the transaction ends",
        })
    }
}
