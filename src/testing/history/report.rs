//! What a check found.

use std::fmt;

use crate::isolation::Isolation;

use super::anomaly::{Anomaly, AnomalyKind};
use super::dependencies::Graph;
use super::transaction::{History, NotUnique, Outcome};
use super::versions::Versions;
use super::{cycles, reads};

/// What else than data says that one transaction comes before another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// Nothing: what no read or append shows did not happen. What the isolation levels promise by themselves.
    #[default]
    Data,
    /// A session comes after what it did before: whoever has committed sees it from then on. A commit whose
    /// answer never came may be stored later, so nothing that follows comes after it.
    Session,
    /// Whatever had ended before a transaction began comes before it. With SERIALIZABLE this is strict
    /// serializability, which a single server gives and a stale replica does not.
    RealTime,
}

impl History {
    /// Looks for everything that is wrong, by the data alone.
    ///
    /// Takes time in proportion to what was read, plus a search in each knot of transactions that depend on
    /// each other in a circle, of which there is none where nothing is wrong.
    ///
    /// # Errors
    ///
    /// Values that are not unique.
    pub fn check(&self) -> Result<Report, NotUnique> {
        self.check_in_order(Order::Data)
    }

    /// The same, where the order of sessions or of time counts as well.
    ///
    /// # Errors
    ///
    /// As those of [`check`](Self::check).
    pub fn check_in_order(&self, order: Order) -> Result<Report, NotUnique> {
        let versions = Versions::recover(self)?;
        let mut anomalies = reads::anomalies(&versions);
        let (cycles, undecided) = cycles::anomalies(&versions, &Graph::new(&versions, order));
        anomalies.extend(cycles);
        anomalies.sort_by_key(|anomaly| (anomaly.kind(), anomaly.cycle().len()));
        let [committed, aborted, unknown] =
            [Outcome::Committed, Outcome::Aborted, Outcome::Unknown].map(|outcome| self.count(outcome));
        Ok(Report { anomalies, undecided, committed, aborted, unknown })
    }
}

/// What is wrong with a history.
///
/// Its `Display` explains every anomaly. No anomalies do not prove that there are none: a history shows what
/// happened, not what could have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    anomalies: Vec<Anomaly>,
    undecided: Vec<AnomalyKind>,
    committed: usize,
    aborted: usize,
    unknown: usize,
}

impl Report {
    /// What was found, the worst first, and of a kind the smallest first.
    #[must_use]
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// Whether there is one of this kind; see [`undecided`](Self::undecided) for kinds of which that is not
    /// known.
    #[must_use]
    pub fn has(&self, kind: AnomalyKind) -> bool {
        self.anomalies.iter().any(|anomaly| anomaly.kind() == kind)
    }

    /// Kinds of which none was found, and of which it is not known that there is none: the search for one was
    /// given up, because hundreds of transactions depend on each other in circles. Assertions on them fail.
    #[must_use]
    pub fn undecided(&self) -> &[AnomalyKind] {
        &self.undecided
    }

    /// What this level forbids and was found.
    pub fn forbidden_at(&self, level: Isolation) -> impl Iterator<Item = &Anomaly> {
        self.anomalies.iter().filter(move |anomaly| anomaly.kind().is_forbidden_at(level))
    }

    /// Asserts that the history is one that this level allows.
    ///
    /// # Panics
    ///
    /// With an explanation of the first five, where it is not; also where nothing was committed, because that
    /// shows nothing.
    #[track_caller]
    pub fn assert(&self, level: Isolation) {
        self.assert_none(&format!("{level} forbids"), |kind| kind.is_forbidden_at(level));
    }

    /// Asserts that nothing of these kinds was found: for what a strategy promises beyond its isolation
    /// level.
    ///
    /// # Panics
    ///
    /// As [`assert`](Self::assert).
    #[track_caller]
    pub fn assert_none_of(&self, kinds: &[AnomalyKind]) {
        self.assert_none("not to be", |kind| kinds.contains(&kind));
    }

    #[track_caller]
    #[allow(clippy::panic, reason = "an assertion, for tests")]
    fn assert_none(&self, what: &str, forbidden: impl Fn(AnomalyKind) -> bool) {
        if self.committed == 0 {
            panic!("nothing was committed, so nothing was shown: {self}");
        }
        let found: Vec<_> = self.anomalies.iter().filter(|anomaly| forbidden(anomaly.kind())).collect();
        if !found.is_empty() {
            let shown: Vec<_> = found.iter().take(SHOWN).map(ToString::to_string).collect();
            let more = match found.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!("\n\nand {more} more"),
            };
            panic!("{what} what happened here:\n\n{}{more}\n", shown.join("\n\n"));
        }
        if let Some(kind) = self.undecided.iter().find(|kind| forbidden(**kind)) {
            panic!(
                "{what} {kind}, and it is not known whether there is one: too many transactions depend on \
                 each other in circles; check a shorter history: {self}"
            );
        }
    }
}

/// How many anomalies a failed assertion explains: where there are more, they are more of the same.
const SHOWN: usize = 5;

impl fmt::Display for Report {
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
