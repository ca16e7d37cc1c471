//! Isolation levels and other modes in which a transaction can be opened.

use std::fmt;

/// An isolation level: how far a transaction is isolated from concurrent ones.
///
/// The names are those of the SQL standard. What a level prevents depends on the database: PostgreSQL's
/// `RepeatableRead` is snapshot isolation and has no phantoms; MariaDB's lets an `UPDATE` act on newer rows
/// than the preceding `SELECT` returned. A database may provide a stronger level than requested: SQLite
/// runs one writer at a time and is always serializable. [`anomalies`](crate::guide::anomalies) has the
/// tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// May read rows that are never committed. PostgreSQL and SQLite provide `ReadCommitted` or better
    /// instead.
    ReadUncommitted,
    /// Every statement sees what was committed before that statement began.
    ReadCommitted,
    /// Every statement sees what was committed before the transaction's first statement began. MariaDB [may
    /// break this under load](crate::guide::engines::mariadb#snapshots-under-load).
    RepeatableRead,
    /// The outcome equals that of running the transactions one after another in some order.
    Serializable,
}

impl Isolation {
    /// Returns the level as SQL spells it.
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

/// Whether a transaction may write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// The transaction may read and write.
    #[default]
    ReadWrite,
    /// The transaction may only read: the database refuses writes and row locks.
    ReadOnly,
}

/// When a SQLite transaction acquires the locks of the database.
///
/// The other databases lock rows and have no such choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Begin {
    /// Acquires each lock with the first statement that needs it. A transaction that reads first and then
    /// writes fails if another one has written in between.
    Deferred,
    /// Acquires the write lock when the transaction begins.
    Immediate,
    /// Acquires the exclusive lock when the transaction begins. In WAL mode this is the same as
    /// [`Immediate`](Self::Immediate).
    Exclusive,
}
