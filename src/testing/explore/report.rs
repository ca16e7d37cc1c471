//! The result of an exploration.

use std::fmt;
use std::time::Duration;

use super::gap::{Accepted, Gap};
use super::lanes::Lanes;
use super::oracle::SerialDifference;
use super::schedule::{ParseScheduleError, Schedule, letter};
use super::totals::ScheduleTotals;

/// The result of an exploration: how much was explored, and each schedule that went wrong.
///
/// Its `Display` is the message that [`assert_passes`](Self::assert_passes) panics with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The number of schedules that were run.
    pub schedules: usize,
    /// Whether all schedules were run. The [guide](crate::guide::testing) defines "all".
    pub complete: bool,
    /// All schedules with up to this many preemptions were run; `None` if not even those without any.
    ///
    /// If the report is complete, this is the highest number of preemptions in any schedule.
    pub preemptions: Option<usize>,
    /// The number of schedules that began with the same steps as an earlier one and then went differently.
    /// Each is [a counterexample](Problem::Diverged).
    pub diverged: usize,
    /// The duration of the exploration.
    pub elapsed: Duration,
    /// The schedules that went wrong, those with the fewest preemptions first.
    pub counterexamples: Vec<Counterexample>,
    /// The schedules that were left out; empty if the exploration is complete.
    pub gaps: Vec<Gap>,
    /// The clients whose units were retried and have more than five attempts. For such a unit, the schedules
    /// that use up all its attempts while the other clients hardly move were not run.
    pub retrying: Vec<String>,
    /// The tables that [`serializable`](super::Explore::serializable) compared.
    pub compared_tables: Vec<String>,
    pub(in crate::testing) totals: ScheduleTotals,
    pub(super) accepted: Accepted,
    pub(super) replayed: bool,
}

/// A schedule that went wrong, with everything that it did.
///
/// Its `Display` shows swim lanes (a column for each client, a row for each step), followed by the problems
/// and the call that replays the schedule.
#[derive(Debug, Clone)]
pub struct Counterexample {
    pub(super) schedule: Schedule,
    pub(super) preemptions: usize,
    pub(super) problems: Vec<Problem>,
    pub(super) lanes: Lanes,
}

/// What went wrong in a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// An invariant does not hold at the end.
    Invariant {
        /// The name of the invariant.
        name: String,
        /// The expected state.
        expected: String,
        /// The actual state.
        found: String,
    },
    /// No serial order of the clients leaves this state and these results. See
    /// [`Explore::serializable`](super::Explore::serializable).
    NotSerializable {
        /// The schedule beside the serial order that is most like it.
        nearest: SerialDifference,
    },
    /// Clients waited for each other, and the database ended the transaction of one of them.
    Deadlock,
    /// A client ended with an error.
    Failed {
        /// The name of the client.
        client: String,
        /// Its error.
        error: String,
    },
    /// A client waited too long for something other than a lock that another client holds.
    Stuck {
        /// The limit: [`Explore::patience`](super::Explore::patience).
        limit: Duration,
    },
    /// The schedule did not end within the limit.
    Endless {
        /// The limit: [`Explore::max_steps`](super::Explore::max_steps).
        steps: usize,
    },
    /// A schedule began with the same steps as an earlier one and then went differently, so the schedules
    /// that continue from there could not be explored.
    ///
    /// Something other than the schedule affects the clients: a cache in the process, a table that the set-up
    /// does not reset, randomness, or another user of the database.
    Diverged {
        /// The step, counted from 1, before which the schedules differ.
        step: usize,
        /// The client, counted from 0, that went differently.
        client: usize,
        /// The state of the client in the earlier schedule.
        expected: String,
        /// The state of the client in this schedule.
        found: String,
    },
    /// The replayed schedule contains a step that its client cannot take.
    Infeasible {
        /// The step, counted from 1.
        step: usize,
        /// The client, counted from 0.
        client: usize,
    },
}

/// The error of an exploration that could not start or continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExploreError {
    /// There are no clients, or more than there are letters to name them.
    #[error("an exploration needs 1 to 26 clients, not {0}")]
    ClientCount(usize),
    /// The pool has too few connections: every client may hold one, and the explorer needs one to query lock
    /// waits.
    #[error(
        "the pool allows {has} connections, but this exploration needs {needs}: one for each client, and one \
         to query lock waits where the database reports them; raise `max_connections`"
    )]
    TooFewConnections {
        /// `max_connections` of the pool.
        has: u32,
        /// The number of connections that the exploration needs.
        needs: u32,
    },
    /// The set-up function failed, or exceeded [`Explore::patience`](super::Explore::patience).
    #[error("the set-up failed: {0}")]
    SetUp(String),
    /// The lock waits could not be queried.
    #[error("could not query the server's lock waits: {0}")]
    LockWaits(#[source] sqlx::Error),
    /// A client began a transaction while another one of its own was open.
    #[error(
        "{client} runs two units at the same time, but a client of an exploration takes one step at a time; \
         add a client for each unit"
    )]
    ConcurrentUnits {
        /// The name of the client.
        client: String,
    },
    /// There is no unit of this name.
    #[error("there is no unit {0:?}")]
    NoSuchUnit(String),
    /// There are too many serial orders of the clients.
    #[error("{clients} clients have too many serial orders; compare at most {max} clients with them")]
    TooManyOrders {
        /// The number of clients.
        clients: usize,
        /// The maximum.
        max: usize,
    },
    /// The tables to compare could not be read.
    #[error("could not read the tables to compare with the serial orders: {0}")]
    Contents(#[source] sqlx::Error),
    /// A statement may write tables that its text does not show.
    #[error(
        "the tables that {client} writes with `{sql}` are unknown; name the tables to compare with `tables`"
    )]
    TablesUnknown {
        /// The name of the client.
        client: String,
        /// The statement.
        sql: String,
    },
    /// A table to compare does not exist.
    #[error("there is no table {0} to compare; check the names that were given to `tables`")]
    NoSuchTable(String),
    /// A client fails in every serial order, where no other client disturbs it.
    #[error("{client} fails in every serial order, where no other client disturbs it: {error}")]
    FailsSerially {
        /// The name of the client.
        client: String,
        /// Its error.
        error: String,
    },
    /// A serial order ended differently when it was run again.
    #[error(
        "the same serial order ended differently when it was run again; leave out columns that change with \
         each run with `ignoring`, compare generated ids with `renaming`, reset all state in the set-up, and \
         return values that do not change with each run:\n\n{0}"
    )]
    SerialOutcomesDiffer(Box<SerialDifference>),
    /// The schedule to replay is not valid.
    #[error(transparent)]
    Schedule(#[from] ParseScheduleError),
}

impl Report {
    /// Returns whether no schedule that was run went wrong.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.counterexamples.is_empty()
    }

    /// Asserts that no schedule went wrong and that no schedule was left out, except by limits that the test
    /// itself has set.
    ///
    /// # Panics
    ///
    /// - If a schedule went wrong, with its swim lanes.
    /// - If there was only one schedule, unless it was a [replay](super::Explore::replay).
    /// - If there is a [gap](Self::gaps) that the test has not accepted:
    ///   [`max_preemptions`](super::Explore::max_preemptions) and
    ///   [`max_schedules`](super::Explore::max_schedules) accept their own limit, and
    ///   [`allow_unseen_statements`](super::Explore::allow_unseen_statements) accepts steps of several
    ///   statements.
    #[track_caller]
    pub fn assert_passes(&self) {
        assert!(self.passes(), "{self}");
        if self.replayed {
            return;
        }
        assert!(
            self.schedules > 1,
            "there was only one schedule, so nothing was interleaved; add a client with steps of its own"
        );
        let advice = self.missing();
        assert!(
            advice.is_none(),
            "the exploration is not complete: {}\n\n{self}",
            advice.as_deref().unwrap_or_default()
        );
    }

    /// The first gap that the test has not accepted, and how to close it.
    pub(in crate::testing) fn missing(&self) -> Option<String> {
        self.gaps.iter().find(|gap| !self.accepted.accepts(gap)).map(Gap::advice)
    }

    /// Returns the first counterexample, which has the fewest preemptions and is the easiest to read.
    #[must_use]
    pub fn first(&self) -> Option<&Counterexample> {
        self.counterexamples.first()
    }
}

impl Counterexample {
    /// Returns the schedule, for [`Explore::replay`](super::Explore::replay).
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Whether the schedule only went differently from an earlier one.
    pub(in crate::testing) fn diverged(&self) -> bool {
        self.problems.iter().all(|problem| matches!(problem, Problem::Diverged { .. }))
    }

    /// Returns the problems, at least one.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, counterexamples, .. } = self;
        match counterexamples.as_slice() {
            [] if self.replayed => write!(f, "the schedule passed")?,
            [] => write!(f, "all {schedules} schedules passed")?,
            [first, ..] => {
                let wrong = counterexamples.len();
                writeln!(f, "{wrong} of {schedules} schedules went wrong; the first of them:\n\n{first}")?;
            }
        }
        if self.replayed {
            return Ok(());
        }
        match (self.gaps.is_empty(), self.preemptions) {
            (true, _) => write!(f, "; there are no others")?,
            (false, Some(max)) => write!(f, "; these are all schedules with up to {max} preemptions")?,
            (false, None) => {}
        }
        if let [names @ .., last] = self.retrying.as_slice() {
            let and = if names.is_empty() { "" } else { " and " };
            write!(f, ", except where {}{and}{last} would use up all attempts", names.join(", "))?;
        }
        for gap in &self.gaps {
            write!(f, "; {gap}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.lanes)?;
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        write!(f, "run it again with .replay(\"{}\")", self.schedule)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invariant { name, expected, found } => {
                write!(f, "{name}: expected {expected}, found {found}")
            }
            Self::NotSerializable { nearest } => write!(
                f,
                "not serializable: no serial order ends like this; the nearest is on the right\n\n{nearest}"
            ),
            Self::Deadlock => f.write_str(
                "deadlock: clients waited for each other, and the database ended the transaction of one",
            ),
            Self::Failed { client, error } => write!(f, "{client} failed: {error}"),
            Self::Stuck { limit } => {
                write!(f, "stuck: after {limit:?} a client still waits, and not for a lock of another client")
            }
            Self::Endless { steps } => write!(f, "endless: not done after {steps} steps"),
            Self::Diverged { step, client, expected, found } => write!(
                f,
                "diverged: before step {step}, {} {found}; in a schedule that began with the same steps, it \
                 {expected}. Something other than the schedule affects the clients: a cache in the process, \
                 a table that the set-up does not reset, randomness, or another user of the database",
                letter(*client)
            ),
            Self::Infeasible { step, client } => {
                write!(f, "infeasible: client {} cannot take step {step} of the schedule", letter(*client))
            }
        }
    }
}
