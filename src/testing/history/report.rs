//! The result of a check.

use std::fmt;

use crate::isolation::Isolation;

use super::anomaly::{Anomaly, AnomalyKind};

/// The number of anomalies that a failed assertion explains. Further ones are usually of the same cause.
const MAX_EXPLAINED: usize = 5;

/// The result of [`History::check`](super::History::check): the anomalies of a history.
///
/// Its `Display` explains every anomaly. A report without anomalies proves nothing about other histories of
/// the same database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    pub(super) anomalies: Vec<Anomaly>,
    pub(super) undecided: Vec<AnomalyKind>,
    pub(super) committed: usize,
    pub(super) aborted: usize,
    pub(super) unknown: usize,
}

impl CheckReport {
    /// Returns the anomalies, the most severe kind first, and the shortest cycle of a kind first.
    #[must_use]
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// Returns whether an anomaly of this kind was found. Kinds whose search was given up are
    /// [undecided](Self::undecided).
    #[must_use]
    pub fn has(&self, kind: AnomalyKind) -> bool {
        self.anomalies.iter().any(|anomaly| anomaly.kind() == kind)
    }

    /// Returns the kinds whose search was given up before an anomaly was found, because hundreds of
    /// transactions depend on each other in cycles. Assertions that exclude them fail.
    #[must_use]
    pub fn undecided(&self) -> &[AnomalyKind] {
        &self.undecided
    }

    /// Returns the anomalies that this isolation level forbids.
    pub fn forbidden_at(&self, level: Isolation) -> impl Iterator<Item = &Anomaly> {
        self.anomalies.iter().filter(move |anomaly| anomaly.kind().is_forbidden_at(level))
    }

    /// Asserts that the history has no anomaly that this isolation level forbids.
    ///
    /// # Panics
    ///
    /// - If there are forbidden anomalies, with an explanation of the first five.
    /// - If no transaction committed, because such a history proves nothing.
    /// - If a forbidden kind is [undecided](Self::undecided).
    #[track_caller]
    pub fn assert(&self, level: Isolation) {
        self.assert_none(&format!("{level} forbids"), |kind| kind.is_forbidden_at(level));
    }

    /// Asserts that the history has no anomaly of these kinds, for promises of a strategy beyond its
    /// isolation level.
    ///
    /// # Panics
    ///
    /// As [`assert`](Self::assert).
    #[track_caller]
    pub fn assert_none_of(&self, kinds: &[AnomalyKind]) {
        self.assert_none("the assertion excludes", |kind| kinds.contains(&kind));
    }

    #[track_caller]
    #[allow(clippy::panic, reason = "an assertion, for tests")]
    fn assert_none(&self, what: &str, is_forbidden: impl Fn(AnomalyKind) -> bool) {
        if self.committed == 0 {
            panic!("no transaction committed, so the history proves nothing: {self}");
        }
        let found: Vec<_> = self.anomalies.iter().filter(|anomaly| is_forbidden(anomaly.kind())).collect();
        if !found.is_empty() {
            let explained: Vec<_> = found.iter().take(MAX_EXPLAINED).map(ToString::to_string).collect();
            let more = match found.len().saturating_sub(MAX_EXPLAINED) {
                0 => String::new(),
                more => format!("\n\nand {more} more"),
            };
            panic!("{what} these anomalies:\n\n{}{more}\n", explained.join("\n\n"));
        }
        if let Some(kind) = self.undecided.iter().find(|kind| is_forbidden(**kind)) {
            panic!(
                "{what} {kind}, but the search for one was given up because too many transactions depend on \
                 each other in cycles; check a shorter history: {self}"
            );
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anomalies, undecided, committed, aborted, unknown } = self;
        write!(f, "{committed} transactions committed, {aborted} aborted, {unknown} unknown: ")?;
        for kind in undecided {
            write!(f, "{kind} undecided, ")?;
        }
        match anomalies.len() {
            0 => return f.write_str("no anomaly"),
            1 => f.write_str("1 anomaly")?,
            n => write!(f, "{n} anomalies")?,
        }
        anomalies.iter().try_for_each(|anomaly| write!(f, "\n\n{anomaly}"))
    }
}
