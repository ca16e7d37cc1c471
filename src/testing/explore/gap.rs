//! What an exploration left out.

use std::fmt;

/// Which gaps the test accepts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub(super) schedules: bool,
    pub(super) unseen: bool,
}

/// A set of schedules that an exploration left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// There are more schedules than [`max_schedules`](super::Explore::max_schedules).
    Schedules {
        /// The number of schedules that were run.
        limit: usize,
    },
    /// There are schedules with more preemptions than
    /// [`max_preemptions`](super::Explore::max_preemptions).
    Preemptions {
        /// The limit.
        limit: usize,
    },
    /// A client sent several statements, or what may be several, as one step. See
    /// [`allow_unseen_statements`](super::Explore::allow_unseen_statements).
    Unseen {
        /// The name of the client.
        client: String,
        /// The SQL text, or the method that bypasses the exploration.
        what: String,
    },
    /// Schedules [diverged](super::Problem::Diverged), so the schedules that continue from there could not be
    /// explored.
    Diverged {
        /// The number of schedules that diverged.
        schedules: usize,
    },
}

impl Accepted {
    pub(super) const fn accepts(self, gap: &Gap) -> bool {
        match gap {
            Gap::Schedules { .. } => self.schedules,
            // Preemptions are only limited on request.
            Gap::Preemptions { .. } => true,
            Gap::Unseen { .. } => self.unseen,
            Gap::Diverged { .. } => false,
        }
    }
}

impl Gap {
    /// The gap, and how to close it.
    pub(super) fn advice(&self) -> String {
        match self {
            Self::Schedules { limit } => format!(
                "there are more than {limit} schedules; explore fewer steps, limit the preemptions with \
                 `max_preemptions`, or set `max_schedules` yourself"
            ),
            Self::Preemptions { .. } | Self::Diverged { .. } => self.to_string(),
            Self::Unseen { .. } => format!(
                "{self}; send the statements one by one, or accept the gap with `allow_unseen_statements`"
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
                write!(f, "steps of other clients in the middle of {what} of {client} were not explored")
            }
            Self::Diverged { schedules } => {
                write!(f, "{schedules} schedules diverged from an earlier one that began with the same steps")
            }
        }
    }
}
