//! What can be wrong with a history.

use std::fmt;

use crate::isolation::Isolation;

/// The kinds of anomalies, by the names of Adya and of Elle, the worst first.
///
/// | level | forbids, with all above |
/// |---|---|
/// | READ UNCOMMITTED | `DirtyWrite`, `InternalInconsistency`, `DuplicateAppend`, `GarbageRead`, `LostAppend` |
/// | READ COMMITTED | `AbortedRead`, `IntermediateRead`, `CircularInformationFlow`, `DirtyUpdate`, `IncompatibleOrder` |
/// | REPEATABLE READ | `LostUpdate`, `GSingle`, `GNonadjacent` |
/// | SERIALIZABLE | `G2Item` |
///
/// # Why is REPEATABLE READ the level of a snapshot?
///
/// It is what PostgreSQL gives under that name, and what MySQL gives to those who only read. Adya's own level
/// of this name forbids `G2Item` and is given by nobody below SERIALIZABLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AnomalyKind {
    /// G0: a cycle of appends that follow each other.
    DirtyWrite,
    /// A transaction does not see its own append, or sees it before it was made, or something behind it.
    InternalInconsistency,
    /// One append is in the list twice: a unit that was stored and run again.
    DuplicateAppend,
    /// A value that nobody appended.
    GarbageRead,
    /// A committed append is missing from what the list held at the end.
    LostAppend,
    /// G1a: a committed transaction read a value of one that was rolled back.
    AbortedRead,
    /// G1b: a committed transaction read a list as another one left it for a moment, before its last append
    /// to it.
    IntermediateRead,
    /// G1c: a cycle of appends that follow each other and of reads that saw them.
    CircularInformationFlow,
    /// A committed append comes after one that was rolled back.
    DirtyUpdate,
    /// Two reads of a list, neither of which is the beginning of the other.
    IncompatibleOrder,
    /// P4: two transactions read the same state of a list, and both appended to it.
    LostUpdate,
    /// A cycle with exactly one read that missed an append: read skew, and lost update seen as a cycle.
    GSingle,
    /// A cycle with several reads that missed an append, no two of them next to each other: no snapshot
    /// explains it.
    GNonadjacent,
    /// A cycle with several reads that missed an append, some of them next to each other: write skew.
    G2Item,
}

impl AnomalyKind {
    /// The name that it is printed with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DirtyWrite => "dirty write (G0)",
            Self::InternalInconsistency => "internal inconsistency",
            Self::DuplicateAppend => "duplicate append",
            Self::GarbageRead => "garbage read",
            Self::LostAppend => "lost append",
            Self::AbortedRead => "aborted read (G1a)",
            Self::IntermediateRead => "intermediate read (G1b)",
            Self::CircularInformationFlow => "circular information flow (G1c)",
            Self::DirtyUpdate => "dirty update",
            Self::IncompatibleOrder => "incompatible order",
            Self::LostUpdate => "lost update (P4)",
            Self::GSingle => "G-single",
            Self::GNonadjacent => "G-nonadjacent",
            Self::G2Item => "G2-item",
        }
    }

    /// The lowest level that forbids it.
    #[must_use]
    pub const fn forbidden_from(self) -> Isolation {
        match self {
            Self::DirtyWrite
            | Self::InternalInconsistency
            | Self::DuplicateAppend
            | Self::GarbageRead
            | Self::LostAppend => Isolation::ReadUncommitted,
            Self::AbortedRead
            | Self::IntermediateRead
            | Self::CircularInformationFlow
            | Self::DirtyUpdate
            | Self::IncompatibleOrder => Isolation::ReadCommitted,
            Self::LostUpdate | Self::GSingle | Self::GNonadjacent => Isolation::RepeatableRead,
            Self::G2Item => Isolation::Serializable,
        }
    }

    /// Whether this level forbids it.
    #[must_use]
    pub const fn is_forbidden_at(self, level: Isolation) -> bool {
        strength(self.forbidden_from()) <= strength(level)
    }
}

const fn strength(level: Isolation) -> u8 {
    match level {
        Isolation::ReadUncommitted => 0,
        Isolation::ReadCommitted => 1,
        Isolation::RepeatableRead => 2,
        Isolation::Serializable => 3,
    }
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DependencyKind {
    /// ww: the other appended right after it.
    WriteWrite,
    /// wr: the other read what it appended.
    WriteRead,
    /// rw: it did not see what the other appended.
    ReadWrite,
    /// The same session ran it first.
    Session,
    /// It had ended before the other began.
    RealTime,
}

impl fmt::Display for DependencyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteWrite => "ww",
            Self::WriteRead => "wr",
            Self::ReadWrite => "rw",
            Self::Session => "session",
            Self::RealTime => "real time",
        })
    }
}

/// One step of a cycle, and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: DependencyKind,
    pub(super) evidence: String,
}

impl Step {
    /// The number of the transaction that comes first.
    #[must_use]
    pub const fn from(&self) -> usize {
        self.from
    }

    /// The number of the one that comes after it.
    #[must_use]
    pub const fn to(&self) -> usize {
        self.to
    }

    /// Why it does.
    #[must_use]
    pub const fn kind(&self) -> DependencyKind {
        self.kind
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{} -{}-> T{}: {}", self.from, self.kind, self.to, self.evidence)
    }
}

/// Something that is wrong with a history, with the transactions and the reads that show it.
///
/// Its `Display` is the explanation, over several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    pub(super) kind: AnomalyKind,
    /// What it is seen from, where that is not a cycle.
    pub(super) evidence: String,
    pub(super) cycle: Vec<Step>,
    /// The transactions with their operations, for those who read the explanation.
    pub(super) transactions: Vec<(usize, String)>,
}

impl Anomaly {
    /// Which of the anomalies it is.
    #[must_use]
    pub const fn kind(&self) -> AnomalyKind {
        self.kind
    }

    /// The numbers of the transactions that take part, each once.
    pub fn transactions(&self) -> impl Iterator<Item = usize> {
        self.transactions.iter().map(|(number, _)| *number)
    }

    /// The smallest cycle of its kind around here; empty where the anomaly is not a cycle.
    #[must_use]
    pub fn cycle(&self) -> &[Step] {
        &self.cycle
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cycle.first() {
            None => write!(f, "{}: {}", self.kind, self.evidence)?,
            Some(first) => {
                write!(f, "{}: T{}", self.kind, first.from)?;
                for step in &self.cycle {
                    write!(f, " -{}-> T{}", step.kind, step.to)?;
                }
                for step in &self.cycle {
                    write!(f, "\n  {step}")?;
                }
            }
        }
        for (number, transaction) in &self.transactions {
            write!(f, "\n  T{number} {transaction}")?;
        }
        Ok(())
    }
}
