//! What a lock order checker has to say.

use std::fmt;

use super::cycles::Part;
use super::trace::{Lock, Taken};

/// Transactions that may wait for each other in a circle, each with its part in it.
///
/// Its `Display` shows them one below the other, with the statements that take the locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inversion {
    orders: Vec<Order>,
}

/// The order in which a transaction took two locks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Order {
    /// What it held.
    pub first: Locked,
    /// What it asked for then.
    pub then: Locked,
}

/// A lock, and the statement that took it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Locked {
    /// `account id=1`, `advisory lock 42`.
    pub lock: String,
    /// The statement, with its values in place.
    pub statement: String,
}

/// A statement whose locks could not be made out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unknown {
    /// The statement, without its values.
    pub statement: String,
    /// What could not be made out.
    pub why: Unclear,
}

/// What could not be made out about a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unclear {
    /// Its text could not be read.
    Text,
    /// It does not say by their keys which rows it locks; or what it locks is no row.
    Rows,
    /// It locks several rows, in an order that is the server's.
    Order,
    /// The unique keys of its table are not known: it is not in the catalog, or has keys that are not made of
    /// columns.
    Keys,
    /// It names a lock that may be the same as one which another statement spells in another way.
    Name,
    /// It only tries to take a lock, and its answer was not read.
    Granted,
    /// Its lock belongs to the session and is still held when the transaction ends.
    Session,
}

impl Inversion {
    pub(super) fn new(parts: &[Part<'_>]) -> Self {
        let orders =
            parts.iter().map(|(held, wanted)| Order { first: Locked::by(held), then: Locked::by(wanted) });
        Self { orders: orders.collect() }
    }

    /// Who locks what before what: each asks for what the next one holds, and the last for what the first
    /// holds.
    ///
    /// A single one is a lock that is shared first and wanted for itself then: two transactions that both do
    /// this wait for each other.
    #[must_use]
    pub fn orders(&self) -> &[Order] {
        &self.orders
    }
}

impl Locked {
    fn by(taken: &Taken) -> Self {
        Self { lock: taken.lock.to_string(), statement: taken.statement.shown.to_string() }
    }
}

impl fmt::Display for Inversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Order { first, then }) in self.orders.iter().enumerate() {
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

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.statement)
    }
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "could not be read",
            Self::Rows => "does not say which rows it locks",
            Self::Order => "locks several rows in no order of its own",
            Self::Keys => "locks rows of a table whose unique keys are not known",
            Self::Name => "spells a lock in another way than another statement does",
            Self::Granted => "does not show whether its lock was granted",
            Self::Session => "leaves a lock with its session when the transaction ends",
        })
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { table, columns, values } => {
                let named = columns.iter().zip(values).map(|(column, value)| format!("{column}={value}"));
                write!(f, "{table} {}", named.collect::<Vec<_>>().join(", "))
            }
            Self::Advisory(key) => write!(f, "advisory lock {key}"),
        }
    }
}
