//! What a statement does about locks.

use std::fmt;

use crate::row_lock::Strength;

use super::report::UnknownReason;

/// Something that can be locked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    /// A row, identified by its values in the columns of a unique key.
    Row {
        table: String,
        columns: Vec<String>,
        values: Vec<String>,
    },
    Advisory(String),
}

/// What a statement does about locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Locks(Locking),
    /// Releases one lock of the session, or all of them (`None`).
    Unlocks(Option<(Lock, Strength)>),
    /// Reads rows. On a database without row locks, this may stand for locking them.
    Reads(Vec<Lock>),
    Savepoint(String),
    RollbackTo(String),
    /// Its locks, or some of them, are unknown.
    Unknown(UnknownReason),
}

/// Locks that a statement requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locking {
    pub(super) locks: Vec<Lock>,
    pub(super) strength: Strength,
    pub(super) waits: bool,
    /// Whether they are acquired one by one, in this order.
    pub(super) ordered: bool,
    pub(super) granted: Granted,
    /// Whether the session keeps them when the transaction ends.
    pub(super) session: bool,
}

/// Which answer to a statement shows that its locks are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Granted {
    /// Any answer that is not a failure.
    IfAnswered,
    /// At least this many rows, read or written: a row that does not exist is not locked.
    IfRows(usize),
    /// A single row that is true.
    IfTrue,
    /// No answer: the statement was one of several in a text.
    Unknown,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row { table, columns, values } => {
                let key = columns.iter().zip(values).map(|(column, value)| format!("{column}={value}"));
                write!(f, "{table} {}", key.collect::<Vec<_>>().join(", "))
            }
            Self::Advisory(key) => write!(f, "advisory lock {key}"),
        }
    }
}
