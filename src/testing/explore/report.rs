//! What an exploration found.

use std::fmt;
use std::time::Duration;

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
    /// Whether these were all that there are.
    pub complete: bool,
    /// Up to how many preemptions all schedules were run; `None` when not even those without.
    pub preemptions: Option<usize>,
    /// How often a schedule, begun like an earlier one, did not go on like it: something besides the clients is at
    /// work on the database, or a client draws lots.
    pub diverged: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The schedules that went wrong, those with the fewest preemptions first.
    pub findings: Vec<Finding>,
}

/// A schedule that went wrong.
///
/// Its `Display` shows it as swim lanes: a column for each client, a row for each step, and what was expected and found.
#[derive(Debug, Clone)]
pub struct Finding {
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
        /// [`Explore::most_steps`](super::Explore::most_steps).
        steps: usize,
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
    /// The schedule to be replayed is none.
    #[error(transparent)]
    Schedule(#[from] BadSchedule),
}

impl Report {
    /// Whether no schedule went wrong.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.findings.is_empty()
    }

    /// Asserts that no schedule went wrong.
    ///
    /// # Panics
    ///
    /// When one did, with its swim lanes; or when there was nothing to interleave.
    #[track_caller]
    pub fn assert_passes(&self) {
        assert!(self.passes(), "{self}");
        assert!(self.schedules > 1, "one schedule is no exploration: there was nothing to interleave");
    }

    /// The finding that is read most easily: the first one.
    #[must_use]
    pub fn first(&self) -> Option<&Finding> {
        self.findings.first()
    }
}

impl Finding {
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
        match (self.complete, self.preemptions) {
            (true, _) => write!(f, "; there are no others")?,
            (false, Some(most)) => {
                write!(f, "; these are all with up to {most} preemptions, and there are more")?
            }
            (false, None) => write!(f, "; there are more")?,
        }
        if self.diverged > 0 {
            write!(f, "; {} did not repeat what their beginning had done before", self.diverged)?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
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
            Self::DoesNotFit { step, client } => {
                write!(f, "the schedule does not fit: {} cannot take step {step}", letter(*client))
            }
        }
    }
}
