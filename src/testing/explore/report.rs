//! What an exploration found.

use std::fmt;
use std::time::Duration;

use super::gap::{Accepted, Gap};
use super::lanes::Lanes;
use super::schedule::{BadSchedule, Schedule, letter};

/// What came of an exploration: how much was explored, and each schedule that went wrong.
///
/// Its `Display` is what [`assert_passes`](Self::assert_passes) panics with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// How many schedules were run.
    pub schedules: usize,
    /// Whether these were all that there are. What "all" means is told in the [guide](crate::guide::testing).
    pub complete: bool,
    /// Up to how many preemptions all schedules were run; `None` when not even those without. Where all
    /// schedules were run, the most that one of them has.
    pub preemptions: Option<usize>,
    /// How often a schedule, begun like an earlier one, did not go on like it. Each is a
    /// [finding](Problem::Diverged).
    pub diverged: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The schedules that went wrong, those with the fewest preemptions first.
    pub findings: Vec<Counterexample>,
    /// What was not explored; empty if the exploration is complete.
    pub gaps: Vec<Gap>,
    /// Clients with units that were run again and have more than five attempts. Schedules in which such a
    /// unit uses all of them up, while the others hardly move, are not among those that were run.
    pub retrying: Vec<String>,
    pub(super) accepted: Accepted,
    pub(super) replayed: bool,
}

/// A schedule that went wrong.
///
/// Its `Display` shows it as swim lanes: a column for each client, a row for each step, and what was expected
/// and found.
#[derive(Debug, Clone)]
pub struct Counterexample {
    pub(super) schedule: Schedule,
    pub(super) problems: Vec<Problem>,
    pub(super) lanes: Lanes,
}

/// What went wrong in a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// An invariant does not hold.
    Invariant {
        /// Its name.
        name: String,
        /// What was to be found.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Clients waited for each other, and one of them was made to give up.
    Deadlock,
    /// A client ended with an error.
    Failed {
        /// Its name.
        client: String,
        /// Its error.
        error: String,
    },
    /// A client waited for something that is no lock held by another client, for longer than the limit.
    Stuck {
        /// [`Explore::patience`](super::Explore::patience).
        limit: Duration,
    },
    /// There was no end after this many steps.
    Endless {
        /// [`Explore::max_steps`](super::Explore::max_steps).
        steps: usize,
    },
    /// A schedule began like an earlier one and did not go on like it, so what was to be explored behind it
    /// could not be. Something besides the schedule decides what happens: a cache in the process, a table
    /// that the set-up does not bring back to where it began, chance, or another user of the database.
    Diverged {
        /// In front of which step, counted from 1.
        step: usize,
        /// Which client, counted from 0, did otherwise.
        client: usize,
        /// Where it stood in the earlier schedule.
        expected: String,
        /// Where it stands in this one.
        found: String,
    },
    /// The schedule to be replayed asks for a step that is not possible.
    DoesNotFit {
        /// Which step, counted from 1.
        step: usize,
        /// Which client, counted from 0, cannot take it.
        client: usize,
    },
}

/// Why nothing could be explored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unexplored {
    /// There are no clients, or too many for letters to name them.
    #[error("an exploration takes 1 to 26 clients, not {0}")]
    Clients(usize),
    /// All clients are held in their transactions at the same time, and the server is asked who waits.
    #[error(
        "the pool has {has} connections, and this exploration needs {needs}: one for each client, and one to watch"
    )]
    TooFewConnections {
        /// `max_connections` of the pool.
        has: u32,
        /// How many it takes.
        needs: u32,
    },
    /// The set-up failed.
    #[error("the set-up failed: {0}")]
    SetUp(String),
    /// No connection for asking the server who waits.
    #[error("the server cannot be asked who waits for locks: {0}")]
    LockWaits(#[source] sqlx::Error),
    /// A client began a transaction while an earlier one of its own was still open.
    #[error(
        "{client} runs two units at the same time, and a client of an exploration takes one step after the other: give \
         each unit a client of its own"
    )]
    SideBySide {
        /// Its name.
        client: String,
    },
    /// The schedule to be replayed is none.
    #[error(transparent)]
    Schedule(#[from] BadSchedule),
}

impl Report {
    /// Whether no schedule went wrong, of those that were run.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.findings.is_empty()
    }

    /// Asserts that no schedule went wrong, and that none was left out but by a limit that the test has set
    /// itself.
    ///
    /// # Panics
    ///
    /// - When a schedule went wrong, with its swim lanes.
    /// - When there was nothing to interleave, unless it was a [replay](super::Explore::replay).
    /// - When something was not explored (see [`gaps`](Self::gaps)) that the test has not agreed to:
    ///   [`max_preemptions`](super::Explore::max_preemptions) and
    ///   [`max_schedules`](super::Explore::max_schedules) agree to their limit, and
    ///   [`allow_unseen_statements`](super::Explore::allow_unseen_statements) to steps of several statements.
    #[track_caller]
    pub fn assert_passes(&self) {
        assert!(self.passes(), "{self}");
        if self.replayed {
            return;
        }
        assert!(self.schedules > 1, "one schedule is no exploration: there was nothing to interleave");
        let gap = self.gaps.iter().find(|gap| !self.accepted.accepts(gap));
        let advice = gap.map(Gap::advice).unwrap_or_default();
        assert!(gap.is_none(), "not everything was explored: {advice}\n\n{self}");
    }

    /// The finding that is read most easily: the first one.
    #[must_use]
    pub fn first(&self) -> Option<&Counterexample> {
        self.findings.first()
    }
}

impl Counterexample {
    /// The schedule, for [`Explore::replay`](super::Explore::replay).
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// What went wrong, at least one thing.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedules, findings, .. } = self;
        match findings.as_slice() {
            [] if self.replayed => write!(f, "the schedule passed")?,
            [] => write!(f, "all of {schedules} schedules passed")?,
            [first, ..] => {
                writeln!(
                    f,
                    "{} of {schedules} schedules went wrong, this one among them:\n",
                    findings.len()
                )?;
                writeln!(f, "{first}")?;
            }
        }
        if self.replayed {
            return Ok(());
        }
        match (self.gaps.is_empty(), self.preemptions) {
            (true, _) => write!(f, "; there are no others")?,
            (false, Some(most)) => write!(f, "; these are all with up to {most} preemptions")?,
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
            Self::Deadlock => {
                f.write_str("deadlock: clients waited for each other, and one was made to give up")
            }
            Self::Failed { client, error } => write!(f, "{client} failed: {error}"),
            Self::Stuck { limit } => {
                write!(
                    f,
                    "stuck: after {limit:?} a client still waits for something that no other client holds"
                )
            }
            Self::Endless { steps } => write!(f, "endless: not done after {steps} steps"),
            Self::Diverged { step, client, expected, found } => {
                write!(
                    f,
                    "diverged: in front of step {step}, {} {found}; in a schedule that began alike, it {expected}. \
                     Something besides the schedule decides what happens: a cache in the process, a table that the \
                     set-up does not bring back, chance, or another user of the database",
                    letter(*client)
                )
            }
            Self::DoesNotFit { step, client } => {
                write!(f, "the schedule does not fit: {} cannot take step {step}", letter(*client))
            }
        }
    }
}
