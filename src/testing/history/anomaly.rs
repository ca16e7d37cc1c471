//! The anomalies of histories, and their explanations.

use std::fmt;

use crate::isolation::Isolation;

/// A kind of anomaly, named as by Adya and Elle. The order is by severity, the most severe first.
///
/// Each isolation level forbids these kinds, and all those of the levels above it in this list:
///
/// - READ UNCOMMITTED: `DirtyWrite`, `InternalInconsistency`, `DuplicateAppend`, `GarbageRead`, `LostAppend`
/// - READ COMMITTED: `AbortedRead`, `IntermediateRead`, `CircularInformationFlow`, `DirtyUpdate`,
///   `IncompatibleOrder`
/// - REPEATABLE READ: `LostUpdate`, `GSingle`, `GNonadjacent`
/// - SERIALIZABLE: `G2Item`
///
/// # Why does REPEATABLE READ mean snapshot isolation?
///
/// PostgreSQL provides snapshot isolation under that name, and MySQL does for transactions that only read.
/// Adya's own level of this name also forbids `G2Item`, which no supported database does below SERIALIZABLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AnomalyKind {
    /// G0: a cycle of appends, each of which follows the previous one.
    DirtyWrite,
    /// A transaction did not read its own append, read it before appending it, or read another value after
    /// it.
    InternalInconsistency,
    /// One append is in the list twice: a unit committed and was retried.
    DuplicateAppend,
    /// A transaction read a value that was never appended.
    GarbageRead,
    /// A committed append is missing from the final state of the list.
    LostAppend,
    /// G1a: a committed transaction read an append of one that was rolled back.
    AbortedRead,
    /// G1b: a committed transaction read a list between two appends of another transaction.
    IntermediateRead,
    /// G1c: a cycle of appends that follow each other and reads that saw them.
    CircularInformationFlow,
    /// A committed append follows one that was rolled back.
    DirtyUpdate,
    /// Two reads of a list, neither of which is a prefix of the other.
    IncompatibleOrder,
    /// P4: two transactions read the same state of a list, and both appended to it.
    LostUpdate,
    /// A cycle with exactly one read that missed an append: read skew, or a lost update that shows as a
    /// cycle.
    GSingle,
    /// A cycle with several reads that missed an append, no two of them adjacent. Snapshot isolation forbids
    /// it.
    GNonadjacent,
    /// A cycle with several reads that missed an append, two of them adjacent: write skew.
    G2Item,
}

impl AnomalyKind {
    /// Returns the name, as it is displayed.
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

    /// Returns the lowest isolation level that forbids this kind.
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

    /// Returns whether an isolation level forbids this kind.
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

/// Why one transaction precedes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DependencyKind {
    /// ww: the second one appended right after the first one.
    WriteWrite,
    /// wr: the second one read what the first one appended.
    WriteRead,
    /// rw: the first one did not read what the second one appended.
    ReadWrite,
    /// The same session ran the first one before the second one.
    Session,
    /// The first one ended before the second one began.
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

/// One dependency in a cycle, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleStep {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: DependencyKind,
    pub(super) evidence: String,
}

impl CycleStep {
    /// Returns the number of the first transaction.
    #[must_use]
    pub const fn from(&self) -> usize {
        self.from
    }

    /// Returns the number of the second transaction.
    #[must_use]
    pub const fn to(&self) -> usize {
        self.to
    }

    /// Returns why the first transaction precedes the second.
    #[must_use]
    pub const fn kind(&self) -> DependencyKind {
        self.kind
    }
}

impl fmt::Display for CycleStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{} -{}-> T{}: {}", self.from, self.kind, self.to, self.evidence)
    }
}

/// An anomaly of a history, with the transactions and reads that prove it.
///
/// Its `Display` is an explanation of several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    pub(super) kind: AnomalyKind,
    /// The evidence, unless it is a cycle.
    pub(super) evidence: String,
    pub(super) cycle: Vec<CycleStep>,
    /// The numbers of the transactions, with their operations as text.
    pub(super) transactions: Vec<(usize, String)>,
}

impl Anomaly {
    /// Returns the kind of the anomaly.
    #[must_use]
    pub const fn kind(&self) -> AnomalyKind {
        self.kind
    }

    /// Returns the numbers of the transactions that are part of the anomaly, each once.
    pub fn transactions(&self) -> impl Iterator<Item = usize> {
        self.transactions.iter().map(|(number, _)| *number)
    }

    /// Returns the shortest cycle of its kind among these transactions; empty if the anomaly is not a cycle.
    #[must_use]
    pub fn cycle(&self) -> &[CycleStep] {
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
