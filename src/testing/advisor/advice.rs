//! What the advisor found out.

use crate::isolation::Isolation;
use crate::strategy::{Attempt, Strategy};
use crate::testing::explore::{AnomalyName, Counterexample};

/// What an advisor found out: a table of unit sets and strategies, and a recommendation for each unit.
///
/// Its `Display` shows the table, the recommendations with the counterexamples against other strategies, and
/// what was not covered. `{:#}` shows each counterexample with its swim lanes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Advice {
    /// A cell for each set of units and each strategy that was explored.
    pub cells: Vec<AdviceCell>,
    /// The recommendation for each unit.
    pub units: Vec<UnitAdvice>,
    /// What the explorations left out. The advice says nothing about it.
    pub not_covered: Vec<String>,
}

/// A set of units under a strategy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdviceCell {
    /// The names of the units, which ran at the same time.
    pub units: Vec<String>,
    /// The name of the strategy, with its isolation level if that is not its own.
    pub strategy: String,
    /// The isolation level.
    pub isolation: Isolation,
    /// How many schedules were run.
    pub schedules: usize,
    /// How many of them went wrong.
    pub wrong: usize,
    /// The anomaly of the first wrong schedule, if the statements tell.
    pub anomaly: Option<AnomalyName>,
    /// How many attempts were wasted: retries, and units that ended with an error of the database or of this
    /// crate.
    pub wasted_attempts: usize,
    /// How often a unit waited for another one.
    pub waits: usize,
    /// For how long units waited for others: the number of texts that the others sent meanwhile.
    pub waited: usize,
    /// How many texts were sent to the database.
    pub round_trips: usize,
    /// The first wrong schedule.
    pub counterexample: Option<Counterexample>,
    /// The number of runs that the figures are totals of, which includes repeated schedules.
    pub(super) runs: usize,
    pub(super) candidate: usize,
    pub(super) set: Vec<usize>,
    pub(super) strategy_name: &'static str,
    /// Why the exploration is not complete, unless the caller has limited it.
    pub(super) missing: Option<String>,
    /// All that was left out.
    pub(super) left_out: Vec<String>,
    /// Whether a unit was retried that has too many attempts to run them all.
    pub(super) is_retried: bool,
}

/// The recommendation for a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnitAdvice {
    /// The name of the unit.
    pub unit: String,
    /// The recommended strategy; `None` if all of them went wrong.
    pub strategy: Option<String>,
    /// The isolation level of the recommended strategy.
    pub isolation: Option<Isolation>,
    /// Why it is recommended.
    pub reason: String,
    pub(super) strategy_name: Option<&'static str>,
}

impl Advice {
    /// Asserts that this strategy, at its own isolation level, is recommended for the unit.
    ///
    /// # Panics
    ///
    /// If another one is recommended or none is, and if there is no such unit.
    #[track_caller]
    pub fn assert_recommends(&self, unit: &str, strategy: impl Strategy) {
        let isolation = strategy.plan(&Attempt::new(1)).isolation;
        self.assert_recommends_at(unit, strategy, isolation);
    }

    /// Asserts that this strategy at this isolation level is recommended for the unit.
    ///
    /// # Panics
    ///
    /// Like [`assert_recommends`](Self::assert_recommends).
    #[track_caller]
    pub fn assert_recommends_at(&self, unit: &str, strategy: impl Strategy, isolation: Isolation) {
        let advice = self.units.iter().find(|advice| advice.unit == unit);
        assert!(advice.is_some(), "there is no unit {unit:?}");
        let recommended = advice.and_then(|advice| advice.strategy_name.zip(advice.isolation));
        assert!(
            recommended == Some((strategy.name(), isolation)),
            "{} at {isolation} is not recommended for {unit}:\n\n{self}",
            strategy.name()
        );
    }

    /// Asserts that no schedule went wrong under this strategy, at its own isolation level, and that no
    /// schedule was left out, except by limits that the test itself has set.
    ///
    /// # Panics
    ///
    /// If a schedule went wrong or was left out, and if the strategy was not explored.
    #[track_caller]
    pub fn assert_safe(&self, strategy: impl Strategy) {
        let isolation = strategy.plan(&Attempt::new(1)).isolation;
        let name = strategy.name();
        let mut cells = self.cells_of(name, isolation).peekable();
        assert!(cells.peek().is_some(), "{name} at {isolation} was not explored:\n\n{self}");
        for cell in cells {
            assert!(cell.wrong == 0, "{} is wrong:\n\n{self:#}", cell.strategy);
            let missing = cell.missing.as_deref().unwrap_or_default();
            assert!(missing.is_empty(), "the exploration is not complete: {missing}\n\n{self}");
        }
    }

    fn cells_of(&self, name: &str, isolation: Isolation) -> impl Iterator<Item = &AdviceCell> {
        self.cells.iter().filter(move |cell| cell.strategy_name == name && cell.isolation == isolation)
    }
}
