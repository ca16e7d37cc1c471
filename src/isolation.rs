//! Isolation levels, and how else a transaction may be opened.

use std::fmt;

/// How far a transaction is shielded from the others that run at the same time.
///
/// The names are those of the SQL standard; what a level prevents is the database's own affair: PostgreSQL's
/// `RepeatableRead` is snapshot isolation and has no phantoms, MariaDB's lets an `UPDATE` act on newer rows than the
/// `SELECT` before it showed. A database may always give more than was asked for: SQLite runs one writer at a time and
/// is serializable whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// May see rows that are never committed. PostgreSQL and SQLite give `ReadCommitted` and better instead.
    ReadUncommitted,
    /// Every statement sees what was committed before that statement began.
    ReadCommitted,
    /// Every statement sees what was committed before the transaction's first statement began.
    RepeatableRead,
    /// The outcome equals that of running the transactions one after another in some order.
    Serializable,
}

impl Isolation {
    /// The level as SQL spells it.
    #[must_use]
    pub const fn as_sql(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "READ UNCOMMITTED",
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_sql())
    }
}

/// What a transaction may do to the data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read and write.
    #[default]
    ReadWrite,
    /// Read only: the database refuses writes, and row locks.
    ReadOnly,
}

/// When a transaction of SQLite takes the database's locks. The other databases have row locks and no such choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begin {
    /// With the first statement that needs one. A transaction that has read and then writes fails if somebody else has
    /// written in between.
    Deferred,
    /// The right to write, at once.
    Immediate,
    /// The database for itself, at once; in WAL mode the same as [`Immediate`](Self::Immediate).
    Exclusive,
}
