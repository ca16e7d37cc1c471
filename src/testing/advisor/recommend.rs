//! Chooses the cheapest strategy that is right.

use crate::backend::Backend;
use crate::isolation::Isolation;

use super::advice::{AdviceCell, UnitAdvice};
use super::candidate::Candidate;
use super::paths::UnitPaths;

/// The choice for each unit.
pub(super) struct Recommendations<'c> {
    cells: &'c [AdviceCell],
    candidates: Vec<CandidateName>,
    /// For each candidate, whether a unit may run under it.
    is_eligible: Vec<Vec<bool>>,
    chosen: Vec<Option<usize>>,
    /// Why all units have the same strategy.
    conflict: Option<String>,
}

struct CandidateName {
    name: &'static str,
    label: String,
    isolation: Isolation,
}

/// What a strategy costs: wasted attempts, waits and round trips, each per thousand schedules. Smaller ones
/// are cheaper; the first of them is compared first.
type Cost = [usize; 3];

impl<'c> Recommendations<'c> {
    pub(super) fn new<DB: Backend>(
        units: usize,
        candidates: &[Candidate<DB>],
        cells: &'c [AdviceCell],
        paths: &UnitPaths,
    ) -> Self {
        let eligible = |candidate: &Candidate<DB>| {
            let fits = |unit| candidate.for_several.is_none() || paths.is_single_statement(unit);
            (0..units).map(fits).collect()
        };
        let named = candidates.iter().map(|candidate| CandidateName {
            name: candidate.name,
            label: candidate.label.clone(),
            isolation: candidate.isolation,
        });
        let mut recommendations = Self {
            cells,
            candidates: named.collect(),
            is_eligible: candidates.iter().map(eligible).collect(),
            chosen: Vec::new(),
            conflict: None,
        };
        recommendations.chosen = (0..units).map(|unit| recommendations.cheapest(&[unit])).collect();
        recommendations
    }

    /// The cheapest candidate that is right in all sets with one of these units.
    fn cheapest(&self, units: &[usize]) -> Option<usize> {
        let eligible = (0..self.candidates.len())
            .filter(|candidate| units.iter().all(|unit| self.is_eligible[*candidate][*unit]));
        let right = eligible.filter_map(|candidate| {
            let cells: Vec<_> = self.cells_with(units, candidate).collect();
            let is_right = !cells.is_empty() && cells.iter().all(|cell| cell.wrong == 0);
            is_right.then(|| (cost(&cells), candidate))
        });
        right.min().map(|(_, candidate)| candidate)
    }

    fn cells_with<'s>(
        &'s self,
        units: &'s [usize],
        candidate: usize,
    ) -> impl Iterator<Item = &'c AdviceCell> + 's {
        self.cells.iter().filter(move |cell| {
            cell.candidate == candidate && units.iter().any(|unit| cell.set.contains(unit))
        })
    }

    /// The candidates of the units of a set, if they differ.
    pub(super) fn mixed(&self, set: &[usize]) -> Option<Vec<usize>> {
        let chosen = set.iter().map(|unit| self.chosen[*unit]).collect::<Option<Vec<_>>>()?;
        chosen.iter().any(|candidate| *candidate != chosen[0]).then_some(chosen)
    }

    /// Chooses one candidate for all units.
    pub(super) fn choose_one_for_all(&mut self, conflict: &str) {
        let all: Vec<usize> = (0..self.chosen.len()).collect();
        self.chosen = vec![self.cheapest(&all); all.len()];
        self.conflict = Some(conflict.to_owned());
    }

    pub(super) fn advice(&self, names: &[&str]) -> Vec<UnitAdvice> {
        names
            .iter()
            .enumerate()
            .map(|(unit, name)| {
                let candidate = self.chosen[unit].map(|candidate| &self.candidates[candidate]);
                UnitAdvice {
                    unit: (*name).to_owned(),
                    strategy: candidate.map(|candidate| candidate.label.clone()),
                    isolation: candidate.map(|candidate| candidate.isolation),
                    strategy_name: candidate.map(|candidate| candidate.name),
                    reason: self.reason(unit),
                }
            })
            .collect()
    }

    fn reason(&self, unit: usize) -> String {
        let Some(candidate) = self.chosen[unit] else {
            return String::from("every strategy that was explored goes wrong");
        };
        let cells: Vec<_> = self.cells_with(&[unit], candidate).collect();
        let [wasted, waits, round_trips] =
            cost(&cells).map(|per_thousand| format!("{:.2}", per_thousand as f64 / 1000.0));
        let sets = match cells.len() {
            1 => String::from("its only set"),
            count => format!("each of its {count} sets"),
        };
        let figures =
            format!("{wasted} wasted attempts, {waits} waits and {round_trips} round trips per schedule");
        match &self.conflict {
            None => format!("right in {sets}, and the cheapest that is: {figures}"),
            Some(conflict) => format!(
                "right in {sets}, and the cheapest for all units together: {figures}; the cheapest for each \
                 unit do not go together ({conflict})"
            ),
        }
    }
}

/// Each set counts alike, however many schedules it has.
fn cost(cells: &[&AdviceCell]) -> Cost {
    let per_thousand = |total: fn(&AdviceCell) -> usize| {
        let of_cells = cells.iter().map(|cell| total(cell) * 1000 / cell.runs.max(1));
        of_cells.sum::<usize>() / cells.len().max(1)
    };
    [
        per_thousand(|cell| cell.wasted_attempts),
        per_thousand(|cell| cell.waits),
        per_thousand(|cell| cell.round_trips),
    ]
}
