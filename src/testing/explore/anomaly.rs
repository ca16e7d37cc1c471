//! Names the anomaly of a schedule, from the dependencies between its transactions.

use std::fmt;

use crate::intercept::StepKind;
use crate::isolation::Isolation;
use crate::sql_text::Syntax;

use super::log::{Entry, ScheduleLog};
use super::report::Counterexample;

mod access;

pub(super) use access::{AccessKind, RowAccess, accesses, changes_with_values, parse, subqueries};

/// The name of the anomaly in a schedule that matches no serial order.
///
/// It is derived from the texts of the statements: which tables they read and write, and which columns they
/// compare with which values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnomalyName {
    /// A unit read a row and wrote it, and overwrote what another unit had written in between, or lost its
    /// own write.
    LostUpdate,
    /// Two units read what the other one changed, and wrote different rows.
    WriteSkew,
    /// Two units read what the other one inserted rows into.
    Phantom,
    /// A unit read some rows before another unit changed them, and others afterwards.
    ReadSkew,
    /// A unit read a row twice, and another unit changed it in between.
    NonRepeatableRead,
    /// A unit ran a query twice, and another unit inserted rows in between.
    PhantomRead,
}

impl AnomalyName {
    /// Returns the usual name: `lost update`, `write skew`, `phantom`, `read skew`, `non-repeatable read` or
    /// `phantom read`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LostUpdate => "lost update",
            Self::WriteSkew => "write skew",
            Self::Phantom => "phantom",
            Self::ReadSkew => "read skew",
            Self::NonRepeatableRead => "non-repeatable read",
            Self::PhantomRead => "phantom read",
        }
    }
}

impl fmt::Display for AnomalyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Counterexample {
    /// Names the anomaly, if the texts of the statements tell.
    pub(in crate::testing) fn anomaly(&self, syntax: Syntax, isolation: Isolation) -> Option<AnomalyName> {
        let log = &self.lanes.log;
        let transactions: Vec<_> = (0..self.lanes.clients.len())
            .filter_map(|client| CommittedAccesses::of(log, client, syntax, isolation))
            .collect();
        let pairs = transactions.iter().flat_map(|one| transactions.iter().map(move |other| (one, other)));
        let pairs: Vec<_> = pairs.filter(|(one, other)| one.client != other.client).collect();
        let lost = pairs.iter().any(|(one, other)| loses_update(one, other));
        let partial = || pairs.iter().find_map(|(one, other)| partial_read(one, other));
        let skew = || pairs.iter().find_map(|(one, other)| skew(one, other));
        if lost { Some(AnomalyName::LostUpdate) } else { partial().or_else(skew) }
    }
}

/// What the committed attempt of a client read and wrote.
struct CommittedAccesses {
    client: usize,
    /// Each with the place in the log at which it took effect, and at which its snapshot was taken.
    accesses: Vec<Placed>,
    committed_at: usize,
}

struct Placed {
    access: RowAccess,
    at: usize,
    sees_until: usize,
}

impl CommittedAccesses {
    fn of(log: &ScheduleLog, client: usize, syntax: Syntax, isolation: Isolation) -> Option<Self> {
        let sent = |at: usize| match log.0.get(at) {
            Some(Entry::Sent(sent)) => Some(&**sent),
            Some(Entry::Unblocked(_)) | None => None,
        };
        // The place at which each step was answered.
        let answered_at = |at: usize| {
            let unblocked = |entry: &Entry| matches!(entry, Entry::Unblocked(step) if *step == at);
            log.0.iter().position(unblocked).unwrap_or(at)
        };
        let own: Vec<usize> =
            (0..log.0.len()).filter(|at| sent(*at).is_some_and(|sent| sent.client == client)).collect();
        let commit = own.iter().rev().copied().find(|at| {
            sent(*at).is_some_and(|sent| sent.step.kind == StepKind::Commit && sent.failure().is_none())
        })?;
        let token = &sent(commit)?.step.transaction;
        let statements: Vec<usize> = own
            .into_iter()
            .filter(|at| {
                sent(*at).is_some_and(|sent| {
                    sent.step.kind == StepKind::Statement && sent.step.transaction.is(token)
                })
            })
            .collect();
        let has_snapshot = matches!(isolation, Isolation::RepeatableRead | Isolation::Serializable);
        let snapshot = statements.first().copied().filter(|_| has_snapshot);
        let mut placed = Vec::new();
        for at in statements {
            let Some(sent) = sent(at) else { continue };
            let arguments = sent.step.arguments.clone().unwrap_or_default();
            let at = answered_at(at);
            for access in accesses(syntax, &sent.step.sql, &arguments) {
                placed.push(Placed { access, at, sees_until: snapshot.unwrap_or(at) });
            }
        }
        Some(Self { client, accesses: placed, committed_at: answered_at(commit) })
    }

    fn reads(&self) -> impl Iterator<Item = &Placed> {
        self.accesses.iter().filter(|placed| placed.access.kind == AccessKind::Read)
    }

    fn writes(&self) -> impl Iterator<Item = &Placed> {
        self.accesses.iter().filter(|placed| placed.access.is_write())
    }

    /// Whether this read saw the writes of `other`.
    fn sees(read: &Placed, other: &Self) -> bool {
        other.committed_at < read.sees_until
    }
}

/// Whether `one` read a row before `other` wrote it, and wrote it after that.
fn loses_update(one: &CommittedAccesses, other: &CommittedAccesses) -> bool {
    one.reads().filter(|read| !CommittedAccesses::sees(read, other)).any(|read| {
        let is_changed =
            |write: &&Placed| write.access.kind == AccessKind::Change && write.access.overlaps(&read.access);
        let own = one.writes().filter(is_changed).filter(|own| own.at > read.at);
        own.into_iter().any(|own| {
            other.writes().filter(is_changed).any(|write| {
                write.access.overlaps(&own.access) && (write.at < own.at || other.committed_at < own.at)
            })
        })
    })
}

/// `one` saw some writes of `other`, and did not see others.
fn partial_read(one: &CommittedAccesses, other: &CommittedAccesses) -> Option<AnomalyName> {
    let overlapping = |read: &Placed| {
        other.writes().find(|write| write.access.overlaps(&read.access)).map(|write| write.access.kind)
    };
    let (seen, missed): (Vec<_>, Vec<_>) = one.reads().partition(|read| CommittedAccesses::sees(read, other));
    let seen: Vec<_> = seen.into_iter().filter(|read| overlapping(read).is_some()).collect();
    missed.into_iter().find_map(|before| {
        let kind = overlapping(before)?;
        let after = seen.first()?;
        Some(match kind {
            _ if after.access != before.access => AnomalyName::ReadSkew,
            AccessKind::Insert => AnomalyName::PhantomRead,
            AccessKind::Change | AccessKind::Read => AnomalyName::NonRepeatableRead,
        })
    })
}

/// Each of the two read what the other one wrote, without seeing it.
fn skew(one: &CommittedAccesses, other: &CommittedAccesses) -> Option<AnomalyName> {
    let missed = |reader: &CommittedAccesses, writer: &CommittedAccesses| {
        let unseen = reader.reads().filter(|read| !CommittedAccesses::sees(read, writer));
        let kinds = unseen.filter_map(|read| {
            writer.writes().find(|write| write.access.overlaps(&read.access)).map(|write| write.access.kind)
        });
        kinds.collect::<Vec<_>>().first().copied()
    };
    let kinds = [missed(one, other)?, missed(other, one)?];
    Some(if kinds.contains(&AccessKind::Insert) { AnomalyName::Phantom } else { AnomalyName::WriteSkew })
}
