//! Who waited for whom.

use std::fmt;
use std::panic::Location;

/// A deadlock as data: who waited for whom, for which lock, with which statements.
///
/// From [`Failure::deadlock`](crate::Failure::deadlock). PostgreSQL tells it with the error; MySQL and MariaDB are asked
/// for InnoDB's status, which takes the privilege `PROCESS`: without it a report holds the side of this unit alone. SQLite
/// has no deadlocks to report.
///
/// Text of SQL never holds values: neither those that were bound, nor those that the server puts into what it shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadlockReport {
    /// The transactions of the cycle; the one that was given up comes first.
    pub parties: Vec<DeadlockParty>,
}

/// A transaction in a cycle of waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadlockParty {
    /// The server's name for the session: PostgreSQL's process id, the connection id of MySQL and MariaDB.
    pub session: Option<i64>,
    /// The unit of work, where it is one of this process.
    pub unit: Option<DeadlockUnit>,
    /// What it waited for, as far as the server says.
    pub waits_for: Option<WantedLock>,
    /// The sessions that held it.
    pub blocked_by: Vec<i64>,
    /// The texts of its statements so far, the last being the one that waited.
    pub statements: Vec<String>,
}

/// The unit of work behind a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadlockUnit {
    /// Its name.
    pub name: &'static str,
    /// Tells its runs apart, in this process.
    pub run: u64,
    /// The number of the attempt.
    pub attempt: u32,
    /// Where in the program the run was started, where that is known.
    pub place: Option<&'static Location<'static>>,
}

/// A lock that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WantedLock {
    /// Its mode, in the server's words: `ShareLock`, `X locks rec but not gap`.
    pub mode: String,
    /// What it is on, in the server's words: `transaction 741`, `RECORD LOCKS`.
    pub on: String,
    /// The table, where the server says. On PostgreSQL, to which an index is a relation too, it is that of the key that was
    /// to be written.
    pub relation: Option<String>,
    /// The index, where the server says.
    pub index: Option<String>,
    /// The row, in the server's terms: a tuple of PostgreSQL (`(0,1)`), or a page and a heap number of InnoDB (`page 4 heap
    /// 2`).
    pub row: Option<String>,
}

/// One line per transaction, then its statements.
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
            Some(DeadlockUnit { name, attempt, place, .. }) => {
                write!(f, "{name}, attempt {attempt}")?;
                if let Some(place) = place {
                    write!(f, " ({}:{})", place.file(), place.line())?;
                }
            }
            None => f.write_str("a transaction of somebody else")?,
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
