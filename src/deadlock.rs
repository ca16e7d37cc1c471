//! Deadlock reports: which transactions waited for each other.

use std::fmt;
use std::panic::Location;

/// A deadlock: which transactions waited for each other, for which locks, with which statements.
///
/// Returned by [`Failure::deadlock`](crate::Failure::deadlock). PostgreSQL reports it with the error. On
/// MySQL and MariaDB the crate reads InnoDB's status, which requires the `PROCESS` privilege; without it, a
/// report describes this unit only. SQLite reports no deadlocks.
///
/// Statements are reported without their values: bound values are left out, and literals in the server's
/// report are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadlockReport {
    /// The transactions of the cycle, beginning with the one that was rolled back.
    pub parties: Vec<DeadlockParty>,
}

/// One transaction of a deadlock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadlockParty {
    /// The server's id of the session: PostgreSQL's process id, the connection id of MySQL and MariaDB.
    pub session: Option<i64>,
    /// The unit of work, if it ran in this process.
    pub unit: Option<DeadlockUnit>,
    /// The lock that it waited for, if the server reports it.
    pub waits_for: Option<WantedLock>,
    /// The sessions that held that lock.
    pub blocked_by: Vec<i64>,
    /// The texts of its statements. The last one is the statement that waited.
    pub statements: Vec<String>,
}

/// The unit of work that ran a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadlockUnit {
    /// The name of the unit.
    pub name: &'static str,
    /// The id of the run, unique in this process.
    pub run: u64,
    /// The number of the attempt.
    pub attempt: u32,
    /// The location in the program that started the run, if known.
    pub location: Option<&'static Location<'static>>,
}

/// A lock that a transaction waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WantedLock {
    /// The lock mode, in the server's words: `ShareLock`, `X locks rec but not gap`.
    pub mode: String,
    /// The locked object, in the server's words: `transaction 741`, `RECORD LOCKS`.
    pub on: String,
    /// The table, if the server reports it. On PostgreSQL, where an index is a relation too, it is the
    /// table of the key that was being written.
    pub relation: Option<String>,
    /// The index, if the server reports it.
    pub index: Option<String>,
    /// The row, in the server's terms: a tuple of PostgreSQL (`(0,1)`), or a page and a heap number of
    /// InnoDB (`page 4 heap 2`).
    pub row: Option<String>,
}

/// Prints one line per transaction, followed by its statements.
impl fmt::Display for DeadlockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, party) in self.parties.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{party}")?;
        }
        Ok(())
    }
}

impl fmt::Display for DeadlockParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(DeadlockUnit { name, attempt, location, .. }) => {
                write!(f, "{name}, attempt {attempt}")?;
                if let Some(location) = location {
                    write!(f, " ({}:{})", location.file(), location.line())?;
                }
            }
            None => f.write_str("a transaction of another process")?,
        }
        if let Some(session) = self.session {
            write!(f, ", session {session}")?;
        }
        if let Some(lock) = &self.waits_for {
            write!(f, ", waited for {lock}")?;
        }
        if !self.blocked_by.is_empty() {
            let sessions: Vec<_> = self.blocked_by.iter().map(i64::to_string).collect();
            write!(f, ", held by session {}", sessions.join(", "))?;
        }
        for statement in &self.statements {
            write!(f, "\n    {statement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WantedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.mode, self.on)?;
        for (what, name) in [("row", &self.row), ("index", &self.index), ("table", &self.relation)] {
            if let Some(name) = name {
                write!(f, ", {what} {name}")?;
            }
        }
        Ok(())
    }
}
