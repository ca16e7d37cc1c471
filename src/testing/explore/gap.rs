//! What an exploration did not explore.

use std::fmt;

/// Which gaps the author of the test has asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub(super) schedules: bool,
    pub(super) unseen: bool,
}

/// What an exploration did not explore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// There are more schedules than [were to be run](super::Explore::max_schedules).
    Schedules {
        /// How many were run.
        limit: usize,
    },
    /// There are schedules with more [preemptions](super::Explore::max_preemptions) than were asked for.
    Preemptions {
        /// How many were asked for.
        limit: usize,
    },
    /// Several statements, or what may be several, ran as one step. See
    /// [`allow_unseen_statements`](super::Explore::allow_unseen_statements).
    Unseen {
        /// The client.
        client: String,
        /// The text, or the method that leads past the exploration.
        what: String,
    },
    /// Schedules [diverged](super::Problem::Diverged), so what lies behind them is not known.
    Diverged {
        /// How many.
        schedules: usize,
    },
}

impl Accepted {
    /// Preemptions are only limited where a test asks for it.
    pub(super) const fn accepts(self, gap: &Gap) -> bool {
        match gap {
            Gap::Schedules { .. } => self.schedules,
            Gap::Preemptions { .. } => true,
            Gap::Unseen { .. } => self.unseen,
            Gap::Diverged { .. } => false,
        }
    }
}

impl Gap {
    /// What to do about it.
    pub(super) fn advice(&self) -> String {
        match self {
            Self::Schedules { limit } => format!(
                "there are more than {limit} schedules; explore less, bound the preemptions with `max_preemptions`, or \
                 set `max_schedules` yourself"
            ),
            Self::Preemptions { .. } | Self::Diverged { .. } => self.to_string(),
            Self::Unseen { .. } => format!(
                "{self}; send the statements one by one, or agree to it with `allow_unseen_statements`"
            ),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schedules { limit } => write!(f, "there are more schedules than the {limit} that were run"),
            Self::Preemptions { limit } => {
                write!(f, "schedules with more than {limit} preemptions were left out")
            }
            Self::Unseen { client, what } => {
                write!(f, "what others do in the middle of {what} of {client} was not explored")
            }
            Self::Diverged { schedules } => {
                write!(f, "{schedules} did not repeat what their beginning had done before")
            }
        }
    }
}
