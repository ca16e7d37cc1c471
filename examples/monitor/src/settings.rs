//! The settings that the page changes at run time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The content of the page's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) strategy: Approach,
    /// Whether units name their row, and so wait for each other at the gate.
    pub(crate) gate: bool,
    /// The number of buyers, each of whom makes one purchase after the other.
    pub(crate) buyers: usize,
    /// The percentage of purchases for the hot event.
    pub(crate) hot: u32,
}

/// The choices on the page. The first settings have conflicts, so that there is something to improve.
pub(crate) const BUYERS: [usize; 5] = [0, 1, 8, 32, 128];
pub(crate) const HOT: [u32; 4] = [0, 50, 90, 100];
pub(crate) const FIRST: Settings =
    Settings { strategy: Approach::Optimistic, gate: false, buyers: 32, hot: 90 };

/// A strategy of the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Approach {
    Pessimistic,
    Optimistic,
    Serializable,
    Atomic,
    Adaptive,
}

impl Approach {
    pub(crate) const ALL: [Self; 5] =
        [Self::Pessimistic, Self::Optimistic, Self::Serializable, Self::Atomic, Self::Adaptive];

    /// The name in the crate's events and in the page's form.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pessimistic => "pessimistic",
            Self::Optimistic => "optimistic",
            Self::Serializable => "serializable",
            Self::Atomic => "atomic",
            Self::Adaptive => "adaptive",
        }
    }
}

/// The name on the page.
impl fmt::Display for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A strategy, with or without the gate: what the page compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) strategy: Approach,
    pub(crate) gate: bool,
}

impl Way {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let with_and_without = |strategy| [false, true].map(|gate| Self { strategy, gate });
        Approach::ALL.into_iter().flat_map(with_and_without)
    }

    /// The name of its units in events and metrics.
    pub(crate) const fn unit(self) -> &'static str {
        if self.gate { "sale at gate" } else { "sale" }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.strategy, if self.gate { " + gate" } else { "" })
    }
}

impl Settings {
    pub(crate) const fn way(&self) -> Way {
        Way { strategy: self.strategy, gate: self.gate }
    }

    /// Whether the page offers these values.
    pub(crate) fn are_on_offer(&self) -> bool {
        BUYERS.contains(&self.buyers) && HOT.contains(&self.hot)
    }

    /// The difference in a few words, for the time axis.
    pub(crate) fn news(&self, before: &Self) -> String {
        let mut words = Vec::new();
        if self.strategy != before.strategy {
            words.push(self.way().to_string());
        } else if self.gate != before.gate {
            words.push(if self.gate { "gate" } else { "no gate" }.to_owned());
        }
        if self.buyers != before.buyers {
            let plural = if self.buyers == 1 { "" } else { "s" };
            words.push(format!("{} buyer{plural}", self.buyers));
        }
        if self.hot != before.hot {
            words.push(format!("{} % hot", self.hot));
        }
        words.join(", ")
    }
}
