//! The findings of the doctor.

use std::fmt;

/// A problem with a queue's database, found by [`Queue::doctor`](super::Queue::doctor).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// The kind of problem.
    pub kind: FindingKind,
    /// What is affected, and what the consequences are.
    pub message: String,
}

impl Finding {
    pub(super) const fn new(kind: FindingKind, message: String) -> Self {
        Self { kind, message }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The kinds of problems that a queue's database can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The server is too old: it lacks a feature that the queue needs.
    Version,
    /// The database accepts no writes.
    ReadOnly,
    /// A table or a column is missing.
    Missing,
    /// A table is stored in a way that loses or confuses jobs: on MySQL and MariaDB not by InnoDB, on
    /// PostgreSQL unlogged, on SQLite with ids that are reused.
    Engine,
    /// An index is missing or invalid. Claims are slow; on MySQL and MariaDB they also miss jobs, and unique
    /// keys are not enforced.
    Index,
    /// A column's collation treats different strings as equal.
    Collation,
    /// Transactions do not get the isolation level that they request.
    Isolation,
    /// SQLite's journal mode, or the binary log format of MySQL and MariaDB, does not suit a queue.
    Journal,
    /// A transaction that has been open for more than ten minutes holds back PostgreSQL's vacuum, or the
    /// purge of MySQL and MariaDB. The latter show it only to accounts with the `PROCESS` privilege.
    Vacuum,
    /// A worker has at least as many handlers as its pool has connections:
    /// [`Worker::doctor`](super::Worker::doctor).
    Pool,
}
